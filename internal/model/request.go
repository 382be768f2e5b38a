package model

import (
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CreateRequest asks for a new container.
type CreateRequest struct {
	Name       string // "" picks one
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *ocispec.Platform
	APIVersion string // "1.44"; defaults differ by version
}

// ListRequest selects containers.
type ListRequest struct {
	All     bool
	Limit   int
	Size    bool
	Filters Filters
}

// StopRequest stops or restarts. Timeout in seconds: nil is the container's
// own, negative waits for ever.
type StopRequest struct {
	Signal  string
	Timeout *int
}

// WaitResult is the end of a wait.
type WaitResult struct {
	Code  int
	Error string
}

// AttachRequest attaches to a container's main process.
type AttachRequest struct {
	Logs, Stream          bool
	Stdin, Stdout, Stderr bool
	DetachKeys            string
}

// LogsRequest reads a container's log. Zero times are open ends.
type LogsRequest struct {
	Stdout, Stderr bool
	Since, Until   time.Time
	Tail           int // lines; negative is all
	Follow         bool
	Details        bool
}

// LogReader yields log entries in order. io.EOF ends them.
type LogReader interface {
	Next() (LogEntry, error)
	Close() error
}

// ExecRequest creates an exec.
type ExecRequest struct {
	User         string
	Privileged   bool
	Tty          bool
	ConsoleSize  *[2]uint
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	DetachKeys   string
	Env          []string
	WorkingDir   string
	Cmd          []string
	LinkEnv      []string // variables of the container's links now, filled in by the lifecycle
}

// RemoveRequest removes a container.
type RemoveRequest struct {
	Force, Volumes, Link bool
	How                  string // RemovedByUser unless set
}

// CommitRequest makes an image from a container.
type CommitRequest struct {
	Repo, Tag       string
	Comment, Author string
	Changes         []string // Dockerfile instructions
	Pause           bool
	Config          *container.Config // nil: the container's
}

// Progress receives a long operation's messages, ready to be sent as one JSON
// object each (moby/moby/api/types/jsonstream). It must not block for long.
type Progress func(msg any)

// AttachNetworks is what the network room needs to attach a container.
type AttachNetworks struct {
	ID       ID
	Name     string // container name, for DNS
	Hostname string
	Netns    string // path to the network namespace
	Pid      int    // of the running container, for Connect; 0 before start
	Want     map[string]*network.EndpointSettings
	Ports    network.PortMap // HostConfig.PortBindings, with PublishAllPorts expanded
	Sysctls  map[string]string
	// Labels of the container; those below wharf.egress, wharf.ingress and
	// wharf.bandwidth limit what it may send and receive.
	Labels   map[string]string
	NetAdmin bool // the container may change its own network (--privileged, CAP_NET_ADMIN): such limits cannot hold
	// Rules were set while the container exists; they add up with the labels.
	Rules *NetworkRules
	// Tap asks for taps on the networks' bridges in the daemon's own namespace
	// instead of interfaces in Netns: a virtual machine opens them by name
	// (Endpoint.HostLink). Netns and Sysctls are not looked at then.
	Tap bool
	DNS []netip.Addr // HostConfig.DNS: servers that a user-defined network's own server asks for this container; none: the daemon's or the host's
}

// Root is a directory that is some container's "/". IDs is set when files
// there show host ids that have to be shifted back (a running container seen
// through /proc/PID/root).
type Root struct {
	Dir  string
	IDs  IDRange
	Name string // what the root itself is called in a tar; "" is "/" (a mount's last component when Dir is a mount's source)
}

// PutOptions are those of Docker's archive endpoint.
type PutOptions struct {
	NoOverwriteDirNonDir bool
	CopyUIDGID           bool   // everything belongs to User; else to the ids in the tar
	User                 string // Config.User, looked up in the root's own /etc/passwd and /etc/group
	Top                  bool   // the entry "." sets the destination's own owner, mode, attributes and time
	NoDevices            bool   // refuse device nodes: the container has a user namespace of its own
}
