// Package model holds wharf's nouns: containers, images, bundles, endpoints,
// mounts, and the table of legal states. It does no I/O and imports nothing
// of ours. Where Docker's Engine API or the OCI specifications already have a
// type for a thing, that type is used as it is (moby/moby/api, runtime-spec,
// image-spec); a second struct that repeats one of theirs is a mistake.
package model

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ID names a container, exec or network: 64 lower-case hexadecimal digits.
type ID string

// NewID returns a random ID. Its first twelve digits are never all decimal,
// because a short id that reads as a number is not a legal host name
// everywhere.
func NewID() ID {
	var b [32]byte
	for {
		_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
		id := ID(hex.EncodeToString(b[:]))
		for _, c := range id[:12] {
			if c > '9' {
				return id
			}
		}
	}
}

// Short returns the first twelve digits.
func (id ID) Short() string {
	if len(id) > 12 {
		return string(id[:12])
	}
	return string(id)
}

// Isolation says what separates an instance from the host.
type Isolation string

// The isolations. Only Container is there yet.
const (
	IsolationContainer Isolation = "container"
	IsolationVM        Isolation = "vm"
)

// IDRange is the block of host user and group ids that an instance's own ids
// 0..Size-1 are mapped to. The zero range means the host's user namespace.
type IDRange struct {
	Host uint32 `json:"host,omitempty"` // host id of the instance's id 0
	Size uint32 `json:"size,omitempty"` // number of ids, 65536 unless zero
}

// Mapped reports whether the instance has a user namespace of its own.
func (r IDRange) Mapped() bool { return r.Size != 0 }

// Image is what a container is made from, resolved for one platform.
type Image struct {
	ID       digest.Digest      `json:"id"`       // what the user sees as the image's id: digest of the index or manifest
	Manifest ocispec.Descriptor `json:"manifest"` // the platform's manifest
	ChainID  digest.Digest      `json:"chainId"`  // key of the unpacked top layer; "" for an image without layers
	Config   ImageConfig        `json:"config"`
	Platform ocispec.Platform   `json:"platform"`
}

// ImageConfig is the part of an image's configuration that a container
// inherits, in Docker's form (it has Healthcheck, Shell and OnBuild beside the
// OCI fields).
type ImageConfig = container.Config

// Rootfs names the directories that make an instance's root.
// All paths are absolute on the host.
type Rootfs struct {
	Lower []string `json:"lower,omitempty"` // layer directories, topmost first
	Upper string   `json:"upper,omitempty"` // writable layer; "" makes the root read-only
	Work  string   `json:"work,omitempty"`  // overlay's work directory, beside Upper
	Dir   string   `json:"dir,omitempty"`   // instead of an overlay: one plain directory

	// For drivers whose instances have disks instead of directories: an EROFS
	// image of all layers, and a sparse ext4 image that is written to.
	Disk     string `json:"disk,omitempty"`
	Writable string `json:"writable,omitempty"`
}

// Container is the durable record of a container: what was asked for, what was
// decided at create, and its present state. Records are values: whoever
// changes one copies it first.
type Container struct {
	ID        ID        `json:"id"`
	Name      string    `json:"name"` // without the leading slash
	Created   time.Time `json:"created"`
	Isolation Isolation `json:"isolation"`

	Config     *container.Config                    `json:"config"`     // request merged with the image's
	HostConfig *container.HostConfig                `json:"hostConfig"` // request with defaults filled in
	Endpoints  map[string]*network.EndpointSettings `json:"endpoints"`  // by network name, as requested at create or connect

	Image    Image   `json:"image"`
	ImageRef string  `json:"imageRef"` // as the user wrote it
	IDs      IDRange `json:"ids"`
	Mounts   []Mount `json:"mounts,omitempty"` // binds, volumes and tmpfs, resolved at create

	ProcessLabel string `json:"processLabel,omitempty"` // SELinux
	MountLabel   string `json:"mountLabel,omitempty"`

	State         State      `json:"state"`
	RestartCount  int        `json:"restartCount,omitempty"`
	StoppedByUser bool       `json:"stoppedByUser,omitempty"` // stop or kill by a person: "unless-stopped" stays down
	Attached      []Endpoint `json:"attached,omitempty"`      // operational network state while running

	NetworkRules *NetworkRules `json:"networkRules,omitempty"` // limits that were set by "wharf network"
	Removal      *Removal      `json:"removal,omitempty"`      // of one being removed, or removed and in the trash
}

// Mount is a bind, volume, tmpfs or image of a container, with every default decided.
type Mount struct {
	Type         string   `json:"type"`             // bind, volume, tmpfs, image
	Name         string   `json:"name,omitempty"`   // volume name; an image as the user wrote it
	Driver       string   `json:"driver,omitempty"` // volume driver
	Source       string   `json:"source,omitempty"` // host path; for a volume its directory, filled in by the volume room
	Subpath      string   `json:"subpath,omitempty"`
	Destination  string   `json:"destination"` // clean absolute path inside
	ReadOnly     bool     `json:"readOnly,omitempty"`
	Recursive    bool     `json:"recursive,omitempty"`    // rbind
	RORecursive  string   `json:"roRecursive,omitempty"`  // "", "force" or "off": mount_setattr(AT_RECURSIVE) of ReadOnly
	Propagation  string   `json:"propagation,omitempty"`  // private, rprivate, shared, rshared, slave, rslave
	Mode         string   `json:"mode,omitempty"`         // the -v option string, shown by inspect
	Options      []string `json:"options,omitempty"`      // tmpfs options, mount(8) words
	NoCopy       bool     `json:"noCopy,omitempty"`       // volume: do not copy the image's content up
	Anonymous    bool     `json:"anonymous,omitempty"`    // volume that goes with the container on rm -v / --rm
	CreateSource bool     `json:"createSource,omitempty"` // -v makes a missing host directory; --mount does not

	Labels        map[string]string `json:"labels,omitempty"`        // of a volume that this mount creates
	DriverOptions map[string]string `json:"driverOptions,omitempty"` // for the driver, when this mount creates the volume

	// Image and Lower are an image mount's: what Name was at create, and its
	// layers' directories, topmost first, filled in at each start.
	Image *Image   `json:"image,omitempty"`
	Lower []string `json:"lower,omitempty"`
	// Disk is what it is for instances that have disks, filled in at each start:
	// the file of an image's EROFS, or that of a volume with type=block.
	Disk string `json:"disk,omitempty"`
	// Upper and Work make it writable; only build steps have them.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
}

// Endpoint is one container's place on one network while it runs.
type Endpoint struct {
	Network   string                    `json:"network"` // name
	NetworkID ID                        `json:"networkId"`
	Settings  *network.EndpointSettings `json:"settings"`  // operational data filled in, as inspect shows it
	Interface string                    `json:"interface"` // name inside, eth0
	HostLink  string                    `json:"hostLink,omitempty"`
	Tap       bool                      `json:"tap,omitempty"` // HostLink is a persistent tap of the daemon's namespace, to be opened with IFF_TAP|IFF_NO_PI|IFF_VNET_HDR
	MTU       int                       `json:"mtu,omitempty"`
	// NameServer is the network's own name server as seen from the network:
	// for whoever has nothing at 127.0.0.11. Zero: the network has none.
	NameServer netip.Addr      `json:"nameServer,omitzero"`
	Ports      network.PortMap `json:"ports,omitempty"`     // published, with the host ports chosen
	DNS        []netip.Addr    `json:"dns,omitempty"`       // servers that the network's own server asks for the container
	Container  string          `json:"container,omitempty"` // its name, for network inspect
}

// Bundle is everything that a driver needs to start an instance. The OCI
// runtime spec in it is the description of the process and its surroundings;
// the rest is what the spec has no words for.
type Bundle struct {
	ID     ID          `json:"id"`
	Spec   *specs.Spec `json:"spec"`
	Rootfs Rootfs      `json:"rootfs"`
	IDs    IDRange     `json:"ids"`

	// User is looked up in the container's own /etc/passwd and /etc/group,
	// from inside, when the process starts: "", "name", "uid", "name:group",
	// "uid:gid". GroupAdd are further names or ids. HOME is set from the same
	// look-up unless Spec.Process.Env has it.
	User     string   `json:"user,omitempty"`
	GroupAdd []string `json:"groupAdd,omitempty"`

	// Endpoints are the instance's networks, for a driver that makes the
	// interfaces itself (a virtual machine). A container's are in the sandbox.
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	Init        bool    `json:"init,omitempty"`      // our init as PID 1 in front of the process
	OpenStdin   bool    `json:"openStdin,omitempty"` // else stdin is /dev/null
	StdinOnce   bool    `json:"stdinOnce,omitempty"` // close stdin when the first attached client leaves
	Log         LogPlan `json:"log"`
	ConsoleSize [2]uint `json:"consoleSize,omitempty"` // height, width

	// Waiting is how many clients attached before the start. The process runs
	// at once, but whoever holds its streams (the monitor) does not begin to
	// read its output before that many Attach calls have come, or 10 seconds
	// have passed, and serves them also if the process has ended meanwhile: so
	// `docker run IMAGE echo hi` never loses its first, or only, line.
	Waiting int `json:"waiting,omitempty"`
}

// LogPlan says where a container's output goes. The monitor writes it.
type LogPlan struct {
	Driver        string            `json:"driver"`            // json-file, local, none; syslog, journald, fluentd, gelf
	Path          string            `json:"path,omitempty"`    // the current file; rotated ones are Path.1, Path.2, ... Of a driver that sends elsewhere: the copy, in local's format, or ""
	Options       map[string]string `json:"options,omitempty"` // Docker's --log-opt words, validated by plan
	Attrs         map[string]string `json:"attrs,omitempty"`   // extra attributes for each entry (labels, env options)
	Tag           string            `json:"tag,omitempty"`     // expanded; of drivers that send elsewhere
	ContainerName string            `json:"containerName,omitempty"`
	ImageName     string            `json:"imageName,omitempty"`
	ImageID       string            `json:"imageId,omitempty"`
	Command       string            `json:"command,omitempty"` // as ps shows it
	Created       time.Time         `json:"created,omitzero"`  // of the container
}

// Exit is how an instance's process ended.
type Exit struct {
	Code      int       `json:"code"` // 0-255; 128+signal when a signal ended it
	At        time.Time `json:"at"`
	Signal    int       `json:"signal,omitempty"` // that ended it, when the code is for one and not the program's own
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Error     string    `json:"error,omitempty"` // why it could not be started or was lost, for a person
}

// ExecSpec describes a further process in a running instance.
type ExecSpec struct {
	ID          ID             `json:"id"`
	Process     *specs.Process `json:"process"`        // args, env, cwd, terminal, capabilities, no_new_privs, rlimits
	User        string         `json:"user,omitempty"` // as Bundle.User
	GroupAdd    []string       `json:"groupAdd,omitempty"`
	OpenStdin   bool           `json:"openStdin,omitempty"`
	Privileged  bool           `json:"privileged,omitempty"` // no seccomp filter, all capabilities
	ConsoleSize [2]uint        `json:"consoleSize,omitempty"`
}

// StreamKind tells output streams apart. The values are those of Docker's
// multiplexed stream header.
type StreamKind byte

// The kinds of stream.
const (
	Stdin  StreamKind = 0
	Stdout StreamKind = 1
	Stderr StreamKind = 2
)

// Stream is an open attachment to a process: its output as it comes, its
// input, its terminal. Next is called from one goroutine; Write, CloseWrite
// and Resize may be called from another; Close ends both.
type Stream interface {
	// Next returns the next piece of output. The slice is valid until the
	// next call. With a terminal everything is Stdout. io.EOF: the process
	// closed its output or ended.
	Next() (StreamKind, []byte, error)
	// Write sends input. CloseWrite closes the process's stdin.
	Write(p []byte) (int, error)
	CloseWrite() error
	Resize(height, width uint) error
	Close() error
}

// LogEntry is one line (or piece of a line longer than 16 KiB) of output.
type LogEntry struct {
	Time    time.Time
	Stream  StreamKind
	Line    []byte // with its newline, unless Partial
	Partial bool
	Attrs   map[string]string
}

// Filters are Docker's filters: for each key the set of wanted values.
type Filters map[string]map[string]bool
