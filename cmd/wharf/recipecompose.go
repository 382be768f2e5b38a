package main

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// compose is a Compose file with one service.
func (r *recipe) compose() string {
	var s yamlMap
	s.set("image", r.image)
	s.set("container_name", r.name)
	s.set("platform", r.platform)
	r.composeProcess(&s)
	r.composeMounts(&s)
	r.composeNetwork(&s)
	r.composeLimits(&s)
	r.composeDevices(&s)
	r.composeSecurity(&s)
	if r.host.AutoRemove {
		r.note("--rm has no word in Compose; `wharf compose run --rm` does it")
	}
	var file yamlMap
	file.set("services", yamlMap{{r.serviceName(), s}})
	var networks, volumes yamlMap
	for _, j := range r.networks {
		if j.name != "bridge" {
			networks.set(j.name, yamlMap{{"external", true}})
		}
	}
	for _, name := range r.named() {
		volumes.set(name, yamlMap{{"external", true}})
	}
	file.set("networks", networks)
	file.set("volumes", volumes)
	var b strings.Builder
	file.write(&b, "")
	return b.String()
}

var notInService = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

func (r *recipe) serviceName() string {
	if n := notInService.ReplaceAllString(r.name, "-"); n != "" {
		return n
	}
	return "service"
}

// named are the volumes with a name that the container uses.
func (r *recipe) named() []string {
	var out []string
	for _, b := range r.host.Binds {
		if src, _, ok := strings.Cut(b, ":"); ok && !strings.HasPrefix(src, "/") {
			out = append(out, src)
		}
	}
	for _, m := range r.host.Mounts {
		if m.Type == mount.TypeVolume && m.Source != "" {
			out = append(out, m.Source)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *recipe) composeProcess(s *yamlMap) {
	c, h := &r.config, &r.host
	if len(r.entrypoint) > 0 {
		s.set("entrypoint", r.entrypoint)
	} else if r.resetEntry {
		s.set("entrypoint", []string{""})
	}
	s.set("command", r.command)
	s.set("environment", c.Env)
	labels := maps.Clone(c.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return strings.HasPrefix(k, "com.docker.compose.") }) // Compose's own
	s.set("labels", labels)
	s.set("annotations", h.Annotations)
	s.set("hostname", c.Hostname)
	s.set("domainname", c.Domainname)
	s.set("user", c.User)
	s.set("group_add", h.GroupAdd)
	s.set("working_dir", c.WorkingDir)
	s.set("stdin_open", c.OpenStdin)
	s.set("tty", c.Tty)
	if h.Init != nil {
		*s = append(*s, yamlEntry{"init", *h.Init})
	}
	if p := h.RestartPolicy; p.Name != "" {
		text := string(p.Name)
		if p.MaximumRetryCount > 0 {
			text += ":" + strconv.Itoa(p.MaximumRetryCount)
		}
		s.set("restart", text)
	}
	s.set("stop_signal", c.StopSignal)
	if c.StopTimeout != nil {
		s.set("stop_grace_period", strconv.Itoa(*c.StopTimeout)+"s")
	}
	if h.LogConfig.Type != "" || len(h.LogConfig.Config) > 0 {
		var log yamlMap
		log.set("driver", h.LogConfig.Type)
		log.set("options", h.LogConfig.Config)
		s.set("logging", log)
	}
	if h.Umask != nil {
		r.note("--umask %04o has no word in Compose", *h.Umask)
	}
	r.composeHealth(s)
}

func (r *recipe) composeHealth(s *yamlMap) {
	h := r.config.Healthcheck
	if h == nil {
		return
	}
	var m yamlMap
	if len(h.Test) > 0 && h.Test[0] == "NONE" {
		m.set("disable", true)
	} else {
		m.set("test", h.Test)
		for _, d := range []struct {
			key string
			d   interface{ String() string }
			on  bool
		}{
			{"interval", h.Interval, h.Interval != 0}, {"timeout", h.Timeout, h.Timeout != 0},
			{"start_period", h.StartPeriod, h.StartPeriod != 0}, {"start_interval", h.StartInterval, h.StartInterval != 0},
		} {
			if d.on {
				m.set(d.key, d.d.String())
			}
		}
		m.set("retries", int64(h.Retries))
	}
	s.set("healthcheck", m)
}

func (r *recipe) composeMounts(s *yamlMap) {
	h := &r.host
	var vols []yamlMap
	for _, b := range h.Binds {
		vols = append(vols, r.composeBind(b))
	}
	for _, path := range r.volumes {
		vols = append(vols, yamlMap{{"type", "volume"}, {"target", path}})
	}
	for _, m := range h.Mounts {
		vols = append(vols, r.composeMount(m))
	}
	s.set("volumes", vols)
	var tmpfs []string
	for _, path := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		if o := h.Tmpfs[path]; o != "" {
			path += ":" + o
		}
		tmpfs = append(tmpfs, path)
	}
	s.set("tmpfs", tmpfs)
	var from []string
	for _, f := range h.VolumesFrom {
		from = append(from, "container:"+f)
	}
	s.set("volumes_from", from)
	if h.VolumeDriver != "" {
		r.note("--volume-driver %s: make the volumes with `wharf volume create --driver` first", h.VolumeDriver)
	}
	s.set("storage_opt", h.StorageOpt)
	s.set("read_only", h.ReadonlyRootfs)
	s.set("shm_size", h.ShmSize)
}

// composeBind turns SOURCE:TARGET[:OPTIONS] into its long form.
func (r *recipe) composeBind(bind string) yamlMap {
	f := strings.SplitN(bind, ":", 3)
	if len(f) == 1 {
		return yamlMap{{"type", "volume"}, {"target", f[0]}}
	}
	kind := "volume"
	if strings.HasPrefix(f[0], "/") {
		kind = "bind"
	}
	m := yamlMap{{"type", kind}, {"source", f[0]}, {"target", f[1]}}
	var bindOptions yamlMap
	if kind == "bind" {
		bindOptions = append(bindOptions, yamlEntry{"create_host_path", true})
	}
	if len(f) == 3 {
		for _, o := range strings.Split(f[2], ",") {
			switch o {
			case "ro":
				m.set("read_only", true)
			case "z", "Z":
				bindOptions.set("selinux", o)
			case "nocopy":
				m.set("volume", yamlMap{{"nocopy", true}})
			case "private", "rprivate", "shared", "rshared", "slave", "rslave":
				bindOptions.set("propagation", o)
			case "rw", "rbind", "":
			default:
				r.note("the option %s of the mount %s has no word in Compose", o, bind)
			}
		}
	}
	if kind == "bind" {
		m.set("bind", bindOptions)
	}
	return m
}

func (r *recipe) composeMount(in mount.Mount) yamlMap {
	m := yamlMap{{"type", string(in.Type)}}
	m.set("source", in.Source)
	m.set("target", in.Target)
	m.set("read_only", in.ReadOnly)
	m.set("consistency", string(in.Consistency))
	if b := in.BindOptions; b != nil {
		var o yamlMap
		o.set("propagation", string(b.Propagation))
		o.set("create_host_path", b.CreateMountpoint)
		switch {
		case b.NonRecursive:
			o.set("recursive", "disabled")
		case b.ReadOnlyNonRecursive:
			o.set("recursive", "writable")
		case b.ReadOnlyForceRecursive:
			o.set("recursive", "readonly")
		}
		m.set("bind", o)
	}
	if v := in.VolumeOptions; v != nil {
		var o yamlMap
		o.set("nocopy", v.NoCopy)
		o.set("subpath", v.Subpath)
		o.set("labels", v.Labels)
		m.set("volume", o)
		if v.DriverConfig != nil && len(v.DriverConfig.Options) > 0 {
			r.note("options of the driver of volume %s: give them where the volume is made", in.Source)
		}
	}
	if i := in.ImageOptions; i != nil && i.Subpath != "" {
		m.set("image", yamlMap{{"subpath", i.Subpath}})
	}
	if t := in.TmpfsOptions; t != nil {
		var o yamlMap
		o.set("size", t.SizeBytes)
		o.set("mode", int64(t.Mode))
		m.set("tmpfs", o)
	}
	return m
}

func (r *recipe) composeNetwork(s *yamlMap) {
	h := &r.host
	switch m := h.NetworkMode; {
	case m.IsHost() || m.IsNone() || m.IsContainer():
		s.set("network_mode", string(m))
	case len(r.networks) == 0 || len(r.networks) == 1 && r.networks[0].name == "bridge":
		s.set("network_mode", "bridge") // else Compose makes a network of its own
	default:
		var nets yamlMap
		for _, j := range r.networks {
			if n := composeEndpoint(j.ep); len(n) > 0 {
				nets.set(j.name, n)
			} else {
				nets.empty(j.name)
			}
		}
		s.set("networks", nets)
	}
	s.set("ports", r.ports)
	if h.PublishAllPorts {
		r.note("--publish-all has no word in Compose; name the ports")
	}
	s.set("expose", r.expose)
	var links []string
	for _, link := range h.Links {
		other, alias, _ := strings.Cut(link, ":")
		links = append(links, strings.TrimPrefix(other, "/")+":"+alias[strings.LastIndex(alias, "/")+1:])
	}
	s.set("external_links", links)
	var dns []string
	for _, a := range h.DNS {
		dns = append(dns, a.String())
	}
	s.set("dns", dns)
	s.set("dns_search", h.DNSSearch)
	s.set("dns_opt", h.DNSOptions)
	s.set("extra_hosts", h.ExtraHosts)
}

func composeEndpoint(ep network.EndpointSettings) yamlMap {
	var n yamlMap
	n.set("aliases", ep.Aliases)
	if i := ep.IPAMConfig; i != nil {
		if i.IPv4Address.IsValid() {
			n.set("ipv4_address", i.IPv4Address.String())
		}
		if i.IPv6Address.IsValid() {
			n.set("ipv6_address", i.IPv6Address.String())
		}
		var local []string
		for _, a := range i.LinkLocalIPs {
			local = append(local, a.String())
		}
		n.set("link_local_ips", local)
	}
	n.set("mac_address", ep.MacAddress.String())
	n.set("driver_opts", ep.DriverOpts)
	n.set("gw_priority", int64(ep.GwPriority))
	return n
}

func (r *recipe) composeLimits(s *yamlMap) {
	h := &r.host
	s.set("mem_limit", h.Memory)
	s.set("mem_reservation", h.MemoryReservation)
	s.set("memswap_limit", h.MemorySwap)
	if h.MemorySwappiness != nil {
		*s = append(*s, yamlEntry{"mem_swappiness", *h.MemorySwappiness})
	}
	s.set("oom_kill_disable", h.OomKillDisable != nil)
	s.set("oom_score_adj", int64(h.OomScoreAdj))
	if h.NanoCPUs != 0 {
		s.set("cpus", cpus(h.NanoCPUs))
	}
	s.set("cpu_shares", h.CPUShares)
	s.set("cpu_period", h.CPUPeriod)
	s.set("cpu_quota", h.CPUQuota)
	s.set("cpu_rt_period", h.CPURealtimePeriod)
	s.set("cpu_rt_runtime", h.CPURealtimeRuntime)
	s.set("cpuset", h.CpusetCpus)
	if h.CpusetMems != "" {
		r.note("--cpuset-mems %s has no word in Compose", h.CpusetMems)
	}
	if h.PidsLimit != nil {
		s.set("pids_limit", *h.PidsLimit)
	}
	var limits yamlMap
	for _, u := range h.Ulimits {
		limits = append(limits, yamlEntry{u.Name, yamlMap{{"soft", u.Soft}, {"hard", u.Hard}}})
	}
	s.set("ulimits", limits)
	var blkio yamlMap
	blkio.set("weight", int64(h.BlkioWeight))
	var weights []yamlMap
	for _, w := range h.BlkioWeightDevice {
		weights = append(weights, yamlMap{{"path", w.Path}, {"weight", int64(w.Weight)}})
	}
	blkio.set("weight_device", weights)
	for _, t := range []struct {
		key  string
		list []*blkiodev.ThrottleDevice
	}{
		{"device_read_bps", h.BlkioDeviceReadBps}, {"device_write_bps", h.BlkioDeviceWriteBps},
		{"device_read_iops", h.BlkioDeviceReadIOps}, {"device_write_iops", h.BlkioDeviceWriteIOps},
	} {
		var list []yamlMap
		for _, d := range t.list {
			list = append(list, yamlMap{{"path", d.Path}, {"rate", int64(d.Rate)}})
		}
		blkio.set(t.key, list)
	}
	s.set("blkio_config", blkio)
	s.set("cgroup_parent", h.CgroupParent)
	s.set("sysctls", h.Sysctls)
}

func (r *recipe) composeDevices(s *yamlMap) {
	h := &r.host
	var devices []string
	for _, d := range h.Devices {
		devices = append(devices, d.PathOnHost+":"+d.PathInContainer+":"+orRWM(d.CgroupPermissions))
	}
	for _, q := range h.DeviceRequests {
		if q.Driver == "cdi" {
			devices = append(devices, q.DeviceIDs...)
			continue
		}
		r.note("--gpus: write it below deploy.resources.reservations.devices")
	}
	s.set("devices", devices)
	s.set("device_cgroup_rules", h.DeviceCgroupRules)
}

func orRWM(s string) string {
	if s == "" {
		return "rwm"
	}
	return s
}

func (r *recipe) composeSecurity(s *yamlMap) {
	h := &r.host
	s.set("privileged", h.Privileged)
	s.set("cap_add", h.CapAdd)
	s.set("cap_drop", h.CapDrop)
	opts := h.SecurityOpt
	if r.unconfinedSys {
		opts = append(slices.Clone(opts), "systempaths=unconfined")
	}
	s.set("security_opt", opts)
	s.set("userns_mode", string(h.UsernsMode))
	s.set("cgroup", string(h.CgroupnsMode))
	s.set("ipc", string(h.IpcMode))
	s.set("pid", string(h.PidMode))
	s.set("uts", string(h.UTSMode))
	s.set("isolation", string(h.Isolation))
	s.set("runtime", h.Runtime)
}
