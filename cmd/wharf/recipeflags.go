package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// flagList is a command line under construction: options, each with its value.
type flagList struct{ items [][]string }

func (l *flagList) bare(flag string, on bool) {
	if on {
		l.items = append(l.items, []string{flag})
	}
}

func (l *flagList) text(flag, value string) {
	if value != "" {
		l.items = append(l.items, []string{flag, value})
	}
}

func (l *flagList) all(flag string, values []string) {
	for _, v := range values {
		l.text(flag, v)
	}
}

func (l *flagList) pairs(flag string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		l.text(flag, k+"="+m[k])
	}
}

func (l *flagList) number(flag string, n int64) {
	if n != 0 {
		l.text(flag, strconv.FormatInt(n, 10))
	}
}

func (l *flagList) duration(flag string, d time.Duration) {
	if d != 0 {
		l.text(flag, d.String())
	}
}

// flags are the options of `run` that make the container again.
func (r *recipe) flags() [][]string {
	l := &flagList{}
	l.text("--name", r.name)
	l.bare("-d", r.detached)
	l.bare("-i", r.config.OpenStdin)
	l.bare("-t", r.config.Tty)
	l.bare("--rm", r.host.AutoRemove)
	if p := r.host.RestartPolicy; p.Name != "" {
		text := string(p.Name)
		if p.MaximumRetryCount > 0 {
			text += ":" + strconv.Itoa(p.MaximumRetryCount)
		}
		l.text("--restart", text)
	}
	l.text("--platform", r.platform)
	r.identityFlags(l)
	r.healthFlags(l)
	r.mountFlags(l)
	r.networkFlags(l)
	r.limitFlags(l)
	r.deviceFlags(l)
	r.securityFlags(l)
	if len(r.entrypoint) > 0 {
		l.text("--entrypoint", r.entrypoint[0])
	} else if r.resetEntry {
		l.items = append(l.items, []string{"--entrypoint", ""})
	}
	return l.items
}

// words is what follows the image.
func (r *recipe) words() []string {
	if len(r.entrypoint) > 1 {
		return slices.Concat(r.entrypoint[1:], r.command)
	}
	return r.command
}

func (r *recipe) identityFlags(l *flagList) {
	c, h := &r.config, &r.host
	l.text("--hostname", c.Hostname)
	l.text("--domainname", c.Domainname)
	l.text("--user", c.User)
	l.all("--group-add", h.GroupAdd)
	l.text("--workdir", c.WorkingDir)
	l.all("--env", c.Env)
	l.pairs("--label", c.Labels)
	l.pairs("--annotation", h.Annotations)
	if h.Init != nil {
		if *h.Init {
			l.bare("--init", true)
		} else {
			l.bare("--init=false", true)
		}
	}
	l.text("--stop-signal", c.StopSignal)
	if c.StopTimeout != nil {
		l.text("--stop-timeout", strconv.Itoa(*c.StopTimeout))
	}
	l.text("--log-driver", h.LogConfig.Type)
	l.pairs("--log-opt", h.LogConfig.Config)
	if h.Umask != nil {
		l.text("--umask", fmt.Sprintf("%04o", *h.Umask))
	}
}

func (r *recipe) healthFlags(l *flagList) {
	h := r.config.Healthcheck
	if h == nil {
		return
	}
	if len(h.Test) > 0 {
		switch h.Test[0] {
		case "NONE":
			l.bare("--no-healthcheck", true)
			return
		case "CMD-SHELL":
			l.text("--health-cmd", strings.Join(h.Test[1:], " "))
		default:
			r.note("the health check ran without a shell; --health-cmd runs it with one")
			l.text("--health-cmd", shellJoin(h.Test[1:]))
		}
	}
	l.duration("--health-interval", h.Interval)
	l.duration("--health-timeout", h.Timeout)
	l.duration("--health-start-period", h.StartPeriod)
	l.duration("--health-start-interval", h.StartInterval)
	l.number("--health-retries", int64(h.Retries))
}

func (r *recipe) mountFlags(l *flagList) {
	h := &r.host
	l.all("--volume", h.Binds)
	l.all("--volume", r.volumes)
	for _, m := range h.Mounts {
		l.text("--mount", mountText(m))
	}
	for _, path := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		text := path
		if o := h.Tmpfs[path]; o != "" {
			text += ":" + o
		}
		l.text("--tmpfs", text)
	}
	l.all("--volumes-from", h.VolumesFrom)
	l.text("--volume-driver", h.VolumeDriver)
	l.pairs("--storage-opt", h.StorageOpt)
	l.bare("--read-only", h.ReadonlyRootfs)
	if h.ShmSize != 0 {
		l.text("--shm-size", strconv.FormatInt(h.ShmSize, 10))
	}
}

// mountText writes a mount as --mount reads it: one line of CSV.
func mountText(m mount.Mount) string {
	f := []string{"type=" + string(m.Type)}
	add := func(key, value string) {
		if value != "" {
			f = append(f, key+"="+value)
		}
	}
	add("source", m.Source)
	add("target", m.Target)
	if m.ReadOnly {
		f = append(f, "readonly")
	}
	add("consistency", string(m.Consistency))
	if b := m.BindOptions; b != nil {
		add("bind-propagation", string(b.Propagation))
		switch {
		case b.NonRecursive:
			add("bind-recursive", "disabled")
		case b.ReadOnlyNonRecursive:
			add("bind-recursive", "writable")
		case b.ReadOnlyForceRecursive:
			add("bind-recursive", "readonly")
		}
		if b.CreateMountpoint {
			add("bind-create-src", "true")
		}
	}
	if v := m.VolumeOptions; v != nil {
		if v.NoCopy {
			f = append(f, "volume-nocopy")
		}
		add("volume-subpath", v.Subpath)
		for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
			f = append(f, "volume-label="+k+"="+v.Labels[k])
		}
		if d := v.DriverConfig; d != nil {
			add("volume-driver", d.Name)
			for _, k := range slices.Sorted(maps.Keys(d.Options)) {
				f = append(f, "volume-opt="+k+"="+d.Options[k])
			}
		}
	}
	if i := m.ImageOptions; i != nil {
		add("image-subpath", i.Subpath)
	}
	if t := m.TmpfsOptions; t != nil {
		if t.SizeBytes != 0 {
			add("tmpfs-size", strconv.FormatInt(t.SizeBytes, 10))
		}
		if t.Mode != 0 {
			add("tmpfs-mode", strconv.FormatUint(uint64(t.Mode), 8))
		}
	}
	return csvLine(f)
}

func csvLine(fields []string) string {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write(fields) // a buffer takes everything
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *recipe) networkFlags(l *flagList) {
	h := &r.host
	if m := h.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() {
		l.text("--network", string(m))
	}
	for _, j := range r.networks {
		l.text("--network", j.text())
	}
	l.all("--publish", r.ports)
	l.bare("--publish-all", h.PublishAllPorts)
	l.all("--expose", r.expose)
	for _, link := range h.Links { // "/other:/me/alias"
		other, alias, _ := strings.Cut(link, ":")
		l.text("--link", strings.TrimPrefix(other, "/")+":"+alias[strings.LastIndex(alias, "/")+1:])
	}
	for _, a := range h.DNS {
		l.text("--dns", a.String())
	}
	l.all("--dns-search", h.DNSSearch)
	l.all("--dns-option", h.DNSOptions)
	l.all("--add-host", h.ExtraHosts)
}

// text writes a network as --network reads it: a name, or CSV.
func (j joined) text() string {
	if plain(j.ep) {
		return j.name
	}
	f := []string{"name=" + j.name}
	for _, a := range j.ep.Aliases {
		f = append(f, "alias="+a)
	}
	if i := j.ep.IPAMConfig; i != nil {
		if i.IPv4Address.IsValid() {
			f = append(f, "ip="+i.IPv4Address.String())
		}
		if i.IPv6Address.IsValid() {
			f = append(f, "ip6="+i.IPv6Address.String())
		}
		for _, a := range i.LinkLocalIPs {
			f = append(f, "link-local-ip="+a.String())
		}
	}
	if m := j.ep.MacAddress; len(m) > 0 {
		f = append(f, "mac-address="+m.String())
	}
	for _, k := range slices.Sorted(maps.Keys(j.ep.DriverOpts)) {
		f = append(f, "driver-opt="+k+"="+j.ep.DriverOpts[k])
	}
	if j.ep.GwPriority != 0 {
		f = append(f, "gw-priority="+strconv.Itoa(j.ep.GwPriority))
	}
	return csvLine(f)
}

func (r *recipe) limitFlags(l *flagList) {
	h := &r.host
	l.number("--memory", h.Memory)
	l.number("--memory-reservation", h.MemoryReservation)
	l.number("--memory-swap", h.MemorySwap)
	if h.MemorySwappiness != nil {
		l.text("--memory-swappiness", strconv.FormatInt(*h.MemorySwappiness, 10))
	}
	l.bare("--oom-kill-disable", h.OomKillDisable != nil)
	l.number("--oom-score-adj", int64(h.OomScoreAdj))
	if h.NanoCPUs != 0 {
		l.text("--cpus", cpus(h.NanoCPUs))
	}
	l.number("--cpu-shares", h.CPUShares)
	l.number("--cpu-period", h.CPUPeriod)
	l.number("--cpu-quota", h.CPUQuota)
	l.number("--cpu-rt-period", h.CPURealtimePeriod)
	l.number("--cpu-rt-runtime", h.CPURealtimeRuntime)
	l.text("--cpuset-cpus", h.CpusetCpus)
	l.text("--cpuset-mems", h.CpusetMems)
	if h.PidsLimit != nil {
		l.text("--pids-limit", strconv.FormatInt(*h.PidsLimit, 10))
	}
	for _, u := range h.Ulimits {
		l.text("--ulimit", fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	l.number("--blkio-weight", int64(h.BlkioWeight))
	for _, w := range h.BlkioWeightDevice {
		l.text("--blkio-weight-device", fmt.Sprintf("%s:%d", w.Path, w.Weight))
	}
	for _, t := range []struct {
		flag string
		list []*blkiodev.ThrottleDevice
	}{
		{"--device-read-bps", h.BlkioDeviceReadBps}, {"--device-write-bps", h.BlkioDeviceWriteBps},
		{"--device-read-iops", h.BlkioDeviceReadIOps}, {"--device-write-iops", h.BlkioDeviceWriteIOps},
	} {
		for _, d := range t.list {
			l.text(t.flag, fmt.Sprintf("%s:%d", d.Path, d.Rate))
		}
	}
	l.text("--cgroup-parent", h.CgroupParent)
	l.pairs("--sysctl", h.Sysctls)
}

// cpus writes billionths as a decimal number.
func cpus(nano int64) string {
	s := fmt.Sprintf("%d.%09d", nano/1e9, nano%1e9)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func (r *recipe) deviceFlags(l *flagList) {
	h := &r.host
	for _, d := range h.Devices {
		l.text("--device", deviceText(d))
	}
	l.all("--device-cgroup-rule", h.DeviceCgroupRules)
	for _, q := range h.DeviceRequests {
		if q.Driver == "cdi" {
			l.all("--device", q.DeviceIDs)
			continue
		}
		f := []string{}
		if q.Driver != "" {
			f = append(f, "driver="+q.Driver)
		}
		if q.Count != 0 {
			f = append(f, "count="+strconv.Itoa(q.Count))
		}
		if len(q.DeviceIDs) > 0 {
			f = append(f, "device="+strings.Join(q.DeviceIDs, ","))
		}
		for _, caps := range q.Capabilities {
			f = append(f, "capabilities="+strings.Join(caps, ","))
		}
		l.text("--gpus", csvLine(f))
	}
}

func deviceText(d container.DeviceMapping) string {
	text := d.PathOnHost
	if d.PathInContainer != d.PathOnHost || d.CgroupPermissions != "rwm" {
		text += ":" + d.PathInContainer
	}
	if d.CgroupPermissions != "rwm" && d.CgroupPermissions != "" {
		text += ":" + d.CgroupPermissions
	}
	return text
}

func (r *recipe) securityFlags(l *flagList) {
	h := &r.host
	l.bare("--privileged", h.Privileged)
	l.all("--cap-add", h.CapAdd)
	l.all("--cap-drop", h.CapDrop)
	l.all("--security-opt", h.SecurityOpt)
	if r.unconfinedSys {
		l.text("--security-opt", "systempaths=unconfined")
	}
	l.text("--userns", string(h.UsernsMode))
	l.text("--cgroupns", string(h.CgroupnsMode))
	l.text("--ipc", string(h.IpcMode))
	l.text("--pid", string(h.PidMode))
	l.text("--uts", string(h.UTSMode))
	l.text("--isolation", string(h.Isolation))
	l.text("--runtime", h.Runtime)
}

var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellQuote makes s one word of a shell's command line.
func shellQuote(s string) string {
	if shellSafe.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func shellJoin(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = shellQuote(w)
	}
	return strings.Join(out, " ")
}

// commandLine is the whole, one option a line when it is long.
func (r *recipe) commandLine(program string) string {
	lines := []string{program + " run"}
	total := len(lines[0])
	for _, f := range r.flags() {
		lines = append(lines, shellJoin(f))
		total += len(lines[len(lines)-1]) + 1
	}
	last := shellQuote(r.image)
	if w := r.words(); len(w) > 0 {
		last += " " + shellJoin(w)
	}
	lines = append(lines, last)
	if total+len(last) < 78 && !strings.Contains(strings.Join(lines, ""), "\n") {
		return strings.Join(lines, " ")
	}
	return strings.Join(lines, " \\\n  ")
}
