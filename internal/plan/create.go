package plan

import (
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// creation is the state of one Create: c is what comes out.
type creation struct {
	in   CreateInput
	f    Facts
	d    Defaults
	api  int // minor version of the API, 44 for "1.44"
	c    model.Container
	cfg  *container.Config     // c.Config
	hc   *container.HostConfig // c.HostConfig
	warn []string

	sec    security
	joined map[string]model.Container // containers named by container: modes, by id
}

// Create decides a new container. It checks every field, merges the image's
// configuration in, and fills in defaults. The container comes back in the
// phase "created". Warnings are for the client.
func Create(in CreateInput, f Facts, d Defaults) (model.Container, []string, error) {
	r := in.Request
	if r.Config == nil {
		return model.Container{}, nil, invalid("config cannot be empty in order to create a container")
	}
	cr := &creation{in: in, f: f, d: d, api: apiMinor(r.APIVersion), joined: make(map[string]model.Container)}
	cr.cfg = cloneConfig(r.Config)
	cr.hc = cloneHostConfig(r.HostConfig)
	cr.c = model.Container{
		ID:         in.ID,
		Name:       in.Name,
		Created:    in.Now.UTC(),
		Isolation:  model.IsolationContainer,
		Config:     cr.cfg,
		HostConfig: cr.hc,
		Image:      in.Image,
		ImageRef:   r.Config.Image,
		State:      model.State{Phase: container.StateCreated},
	}
	// The order matters: what a request itself says is judged before the
	// image is merged in, as Docker does (an image's EXPOSE is no conflict).
	for _, step := range []func() error{
		cr.name,
		cr.oldVersions,
		cr.isolation,
		cr.checkRequest,
		cr.netModeConflicts,
		cr.mergeImage,
		cr.checkConfig,
		cr.resources,
		cr.modes,
		cr.machine,
		cr.inherited,
		cr.ids,
		cr.security,
		cr.capabilities,
		cr.sysctls,
		cr.endpoints,
		cr.hostnames,
		cr.mounts,
		cr.logging,
		cr.devices,
	} {
		if err := step(); err != nil {
			return model.Container{}, cr.warn, err
		}
	}
	return cr.c, cr.warn, nil
}

func (cr *creation) warnf(text string) { cr.warn = append(cr.warn, text) }

// apiMinor returns 44 for "1.44"; the newest for "" or nonsense (the door
// checks versions).
func apiMinor(v string) int {
	major, minor, ok := strings.Cut(v, ".")
	n, err := strconv.Atoi(minor)
	if !ok || major != "1" || err != nil {
		return 1 << 10
	}
	return n
}

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

// CheckName checks a name that a person chose (without the leading slash).
func CheckName(name string) error {
	ok := len(name) >= 2 && len(name) <= 255
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", rune(c))) {
			ok = false
		}
	}
	if !ok {
		return invalid("Invalid container name (%s), only %s are allowed", name, nameChars)
	}
	return nil
}

func (cr *creation) name() error { return CheckName(cr.in.Name) }

// checkRequest checks what needs nothing but the request.
func (cr *creation) checkRequest() error {
	hc := cr.hc
	if hc.RestartPolicy.Name == "" {
		hc.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if hc.AutoRemove && !hc.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	if err := container.ValidateRestartPolicy(hc.RestartPolicy); err != nil {
		return invalid("%s", err)
	}
	for _, h := range hc.ExtraHosts {
		if err := checkExtraHost(h); err != nil {
			return err
		}
	}
	if err := checkPorts(hc.PortBindings); err != nil {
		return err
	}
	if _, ok := hc.Annotations[""]; ok {
		return invalid("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	if hc.Cgroup != "" {
		return notImplemented("cgroup %q: sharing another container's cgroup is not supported; use --cgroup-parent", hc.Cgroup)
	}
	for key, v := range hc.StorageOpt {
		return invalid("storage-opt %s=%s: limits on the root file system are not supported; use a volume or --tmpfs with a size", key, v)
	}
	if hc.VolumeDriver != "" && cr.api >= 48 {
		for _, m := range hc.Mounts {
			if m.Type == "volume" && (m.VolumeOptions == nil || m.VolumeOptions.DriverConfig == nil || m.VolumeOptions.DriverConfig.Name == "") {
				cr.warnf("WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead")
				break
			}
		}
	}
	if hc.Umask != nil && *hc.Umask > 0o777 {
		return invalid("invalid umask %o: must be between 0 and 0777", *hc.Umask)
	}
	return nil
}

func checkPorts(ports network.PortMap) error {
	for port, bindings := range ports {
		if !port.IsValid() || port.Num() == 0 {
			return invalid("invalid port specification: %q", port.String())
		}
		switch port.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return invalid("invalid port specification: %q: the protocol must be tcp, udp or sctp", port.String())
		}
		for _, b := range bindings {
			if b.HostPort == "" {
				continue
			}
			if _, err := network.ParsePortRange(b.HostPort); err != nil {
				return invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	return nil
}

// checkConfig checks the merged configuration.
func (cr *creation) checkConfig() error {
	cfg := cr.cfg
	if cfg.WorkingDir != "" {
		if !path.IsAbs(cfg.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", cfg.WorkingDir)
		}
		cfg.WorkingDir = path.Clean(cfg.WorkingDir)
	}
	if cfg.StopSignal != "" {
		if err := CheckSignal(cfg.StopSignal); err != nil {
			return err
		}
	}
	for _, e := range cfg.Env {
		if strings.ContainsRune(e, 0) {
			return invalid("invalid environment variable %q: contains a NUL byte", e)
		}
		if e == "" || e[0] == '=' {
			return invalid("invalid environment variable: %s", e)
		}
	}
	for _, args := range [][]string{cfg.Entrypoint, cfg.Cmd} {
		for _, a := range args {
			if strings.ContainsRune(a, 0) {
				return invalid("invalid argument %q: contains a NUL byte", a)
			}
		}
	}
	for port := range cfg.ExposedPorts {
		if err := checkPorts(network.PortMap{port: nil}); err != nil {
			return err
		}
	}
	return checkHealth(cfg.Healthcheck)
}

func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)},
		{"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)},
	} {
		if d.value != 0 && d.value < int64(container.MinimumDuration) {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) > 0 {
		switch h.Test[0] {
		case "NONE", "CMD", "CMD-SHELL":
		default:
			return invalid("Unknown healthcheck type '%s' (expected 'CMD', 'CMD-SHELL' or 'NONE')", h.Test[0])
		}
	}
	return nil
}
