package plan

import (
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

// Facts is what the kernel and the machine have. cmd/wharfd fills it from
// internal/host. The zero value is a machine that has nothing: options that
// need a missing controller are dropped with a warning, as Docker does.
type Facts struct {
	Kernel        string // release, "6.18.5"
	Arch          string // GOARCH
	CPUs          int    // online
	Cpus, Mems    string // allowed cpuset lists, "0-1" and "0"
	CgroupVersion int    // 1 (also hybrid) or 2: which default cgroup namespace mode

	// Controllers and their abilities.
	Memory, Swap, MemoryReservation, MemorySwappiness bool
	OomKillDisable                                    bool
	CPUShares, CPUQuota, CPURealtime, Cpuset          bool
	Pids, Blkio, BlkioWeight, Hugetlb, Devices        bool

	Seccomp, AppArmor, SELinux bool
	UserNS                     bool // a user namespace per container works
	CgroupNS                   bool
	RORecursive                bool // mount_setattr(2), kernel 5.12

	// Capabilities is the bounding set of the daemon, "CAP_..." names: a
	// container cannot get more. nil: unknown, everything.
	Capabilities []string
	Hostname     string
	// Inherited are the daemon's own limits. nil: it can raise them.
	Inherited *Inherited
	// MaskedPaths are masked beside the usual ones, because this machine has
	// them (/sys/devices/system/cpu/cpu0/thermal_throttle).
	MaskedPaths []string
	// IPv4Forward: packets are forwarded; without it bridges do not reach out.
	IPv4Forward bool
}

// Defaults is what the configuration says for containers that do not say it
// themselves.
type Defaults struct {
	LogDriver      string            // "json-file"
	LogOptions     map[string]string // for LogDriver
	ShmSize        int64             // 64 MiB unless set
	Ulimits        map[string]*container.Ulimit
	Runtime        string                 // name of the default runtime, shown by inspect: "wharf"
	Runtimes       []string               // further names that mean the same: "runc", "io.containerd.runc.v2"
	Isolation      model.Isolation        // of requests that name none: "" is container
	IsolationRules []IsolationRule        // who has to have another one, whatever the request says; the first that fits
	VM             bool                   // isolation vm is there
	NoVM           string                 // why it is not, when nobody switched it off
	IpcMode        container.IpcMode      // "private"
	CgroupnsMode   container.CgroupnsMode // "" decides by the cgroup version
	Init           bool
	NoNewPrivs     bool
	SELinux        bool          // label containers
	SeccompProfile string        // "" is the built-in one, "unconfined", or a profile's JSON
	Seccomp        *SeccompCache // nil expands the profile for each container anew
	UsernsHost     bool          // containers use the host's ids unless they say otherwise
	StopTimeout    int           // seconds, 10 unless set

	CgroupParent  string // absolute below the cgroup root: "/wharf"
	DataRoot      string // the daemon's own directory: binds of it and of what is above are slaves of the host's mounts
	ContainersDir string // <data root>/containers: log files live in <dir>/<id>/

	DNS         []netip.Addr
	DNSSearch   []string
	DNSOptions  []string
	HostGateway []netip.Addr // what host-gateway in --add-host stands for
}

// Lookup holds the questions that plan has to ask. A nil function means
// "cannot tell": a container is not found, a path is taken as there, a device
// is refused.
type Lookup struct {
	// Container finds another container by name, id or prefix, for
	// --volumes-from, container: modes and --link.
	Container func(ref string) (model.Container, error)
	// Exists reports whether a host path is there.
	Exists func(path string) bool
	// Devices describes the device at a host path, or those below a
	// directory. Path in the results is the host's.
	Devices func(path string) ([]specs.LinuxDevice, error)
	CDI     CDI // devices by name; nil: none
	// Image finds a local image by reference or id, for mounts of type image.
	Image func(ref string) (model.Image, error)
	// Labels makes SELinux labels for a new container from "label=" options
	// ("disable", "type:x"); nil where SELinux is off.
	Labels func(opts []string) (process, mount string, err error)
}

// CreateInput is what Create decides from.
type CreateInput struct {
	Request model.CreateRequest
	Image   model.Image
	ID      model.ID
	Name    string    // the name it will have, without slash; checked by CheckName
	Now     time.Time // becomes Created

	// IDs is a free range. The container gets it, or none (--privileged,
	// --userns=host), or the range of a container whose namespace it shares:
	// the range was taken only if the returned container's IDs equals it.
	IDs model.IDRange

	Lookup Lookup
}

// StartInput is what Start needs beside the container's record.
type StartInput struct {
	Rootfs model.Rootfs
	Mounts []model.Mount // the container's, Source of volumes filled in; nil: as recorded

	// Hosts, Hostname and Resolv are the host paths of the files that are
	// bound to /etc/hosts, /etc/hostname, /etc/resolv.conf; "" binds none.
	Hosts, Hostname, Resolv string

	// JoinNet, JoinIPC, JoinPid are namespace paths (/proc/PID/ns/net) of the
	// containers that container: modes name; JoinUser the user namespace they
	// live in ("" when it is the host's). Needed only for such modes; see
	// Joins. With JoinIPC, JoinShm is a path to that container's /dev/shm
	// ("/proc/PID/root/dev/shm").
	JoinNet, JoinIPC, JoinPid, JoinUser, JoinShm string

	// LinkEnv are variables that links add, after PATH and before the
	// container's own; see the function LinkEnv.
	LinkEnv []string

	Lookup Lookup // Devices is used
}

// FilesInput is what Files needs.
type FilesInput struct {
	Container model.Container
	Endpoints []model.Endpoint // empty for host, none and container: modes

	// HostResolv is the host's resolv.conf: /etc/resolv.conf, or
	// /run/systemd/resolve/resolv.conf where the former names only
	// 127.0.0.53. HostHosts and HostHostname are the host's own, for --network host.
	HostResolv, HostHosts []byte
	HostHostname          string

	// Links are further lines of the hosts file: --link on the default bridge.
	Links []Link
}

// Link is a running container that another one sees by name.
type Link struct {
	IP    netip.Addr
	Names []string
}

// EtcFiles are the texts of three files.
type EtcFiles struct{ Hosts, Hostname, Resolv []byte }
