package runtime

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// IDMap maps Size ids from Inside on to host ids from Host on.
type IDMap struct {
	Inside uint32 `json:"inside"`
	Host   uint32 `json:"host"`
	Size   uint32 `json:"size"`
}

// Namespace is a namespace of the process: a new one, or with Path one to
// join (any file of nsfs, also /proc/self/fd/N of the process that calls
// Create). Kind is the spec's word: "mount", "pid", "network", ...
type Namespace struct {
	Kind string `json:"kind"`
	Path string `json:"path,omitempty"`
}

// Root says how the root directory is made. Paths are absolute.
type Root struct {
	Lower    []string `json:"lower,omitempty"` // topmost first
	Upper    string   `json:"upper,omitempty"` // "": the root cannot be written
	Work     string   `json:"work,omitempty"`
	Dir      string   `json:"dir,omitempty"`      // a plain directory instead of layers
	ReadOnly bool     `json:"readOnly,omitempty"` // set at the end, after mount points were made
	IDMap    bool     `json:"idMap,omitempty"`    // show the files with the container's ids
}

// Prepared is everything that Create needs, as data: it is encoded as JSON
// and handed to the process that performs. prepare.Container makes it.
type Prepared struct {
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle,omitempty"`      // told to hooks
	Annotations map[string]string `json:"annotations,omitempty"` // told to hooks

	UIDMap     []IDMap     `json:"uidMap,omitempty"` // empty: the host's user namespace
	GIDMap     []IDMap     `json:"gidMap,omitempty"`
	Namespaces []Namespace `json:"namespaces"`
	TimeOffset string      `json:"timeOffset,omitempty"` // lines for /proc/PID/timens_offsets

	Root   Root        `json:"root"`
	Mounts []HostMount `json:"mounts,omitempty"` // made by the caller's side; Stage refers to them by index

	Cgroup *Cgroup `json:"cgroup,omitempty"`

	OOMScoreAdj *int                `json:"oomScoreAdj,omitempty"`
	Rlimits     []specs.POSIXRlimit `json:"rlimits,omitempty"`
	Hooks       *specs.Hooks        `json:"hooks,omitempty"`

	Terminal    bool    `json:"terminal,omitempty"`
	ConsoleSize [2]uint `json:"consoleSize,omitempty"` // height, width

	SeccompListener         string `json:"seccompListener,omitempty"` // unix socket that gets the notify descriptor
	SeccompListenerMetadata string `json:"seccompListenerMetadata,omitempty"`

	MountLabel string `json:"mountLabel,omitempty"` // SELinux context of the root
	HostRoot   string `json:"hostRoot,omitempty"`   // where the root is mounted in the host's own tree (Stage.Root.Chroot); see DropRoot

	Stage    []byte   `json:"stage"`              // what the init stage gets (Stage, encoded)
	Warnings []string `json:"warnings,omitempty"` // from prepare
}

// PreparedExec is everything that Exec needs, as data. prepare.Exec makes it.
type PreparedExec struct {
	Chroot      bool                `json:"chroot,omitempty"`  // the first process's root is not its mount namespace's
	Cgroups     []string            `json:"cgroups,omitempty"` // cgroup directories to join
	OOMScoreAdj *int                `json:"oomScoreAdj,omitempty"`
	Rlimits     []specs.POSIXRlimit `json:"rlimits,omitempty"`
	Terminal    bool                `json:"terminal,omitempty"`
	ConsoleSize [2]uint             `json:"consoleSize,omitempty"`

	SeccompListener         string `json:"seccompListener,omitempty"`
	SeccompListenerMetadata string `json:"seccompListenerMetadata,omitempty"`

	Stage    []byte   `json:"stage"`
	Warnings []string `json:"warnings,omitempty"`
}

// HostMount is a detached mount that the caller's side makes, because it
// needs the host's view or rights: a bind mount, or the /dev of a container.
type HostMount struct {
	Kind      HostMountKind `json:"kind"`
	Source    string        `json:"source,omitempty"`
	Recursive bool          `json:"recursive,omitempty"`
	IDMap     bool          `json:"idMap,omitempty"`
	TopOnly   bool          `json:"topOnly,omitempty"` // IDMap is not for what is mounted below
	Own       []IDMap       `json:"own,omitempty"`     // the mount's own uid map instead of the container's
	OwnGID    []IDMap       `json:"ownGid,omitempty"`  // and gid map
	Set       uint64        `json:"set,omitempty"`     // MOUNT_ATTR_* of the top mount
	Clear     uint64        `json:"clear,omitempty"`   //
	RecSet    uint64        `json:"recSet,omitempty"`  // MOUNT_ATTR_* of the whole tree
	RecClear  uint64        `json:"recClear,omitempty"`
	Prop      uint64        `json:"prop,omitempty"`    // MS_SHARED, ... of the top mount
	RecProp   uint64        `json:"recProp,omitempty"` // of the whole tree
	Data      []string      `json:"data,omitempty"`    // dev: tmpfs options
	Nodes     []Node        `json:"nodes,omitempty"`   // dev: what is in it
	Lower     []string      `json:"lower,omitempty"`   // layers: directories, topmost first
	Upper     string        `json:"upper,omitempty"`   // layers: what is written goes there
	Work      string        `json:"work,omitempty"`    // layers: overlay's own, beside Upper
	Subpath   string        `json:"subpath,omitempty"` // bind, layers: what of them, a clean relative path
	Dest      string        `json:"dest,omitempty"`    // for messages
}

// HostMountKind is one of those below.
type HostMountKind string

// The kinds of host mount.
const (
	HostBind HostMountKind = "bind"
	HostDev  HostMountKind = "dev" // a tmpfs with device nodes
	// HostLayers is an overlay of directories, or a part of it; read-only
	// without Upper.
	HostLayers HostMountKind = "layers"
	// HostUser is no mount but a user namespace with the maps Own and OwnGID,
	// for a bind that the stage makes and idmaps.
	HostUser HostMountKind = "user"
	// HostCgroup binds a directory of the container's cgroups, once made.
	HostCgroup HostMountKind = "cgroup"
)

// Node is a file of a container's /dev.
type Node struct {
	Path  string `json:"path"` // relative to the mount
	Mode  uint32 `json:"mode"` // with S_IFMT bits
	Major uint32 `json:"major,omitempty"`
	Minor uint32 `json:"minor,omitempty"`
	UID   uint32 `json:"uid,omitempty"` // inside
	GID   uint32 `json:"gid,omitempty"`
	Link  string `json:"link,omitempty"` // symbolic link's target
}

// Cgroup is the list of cgroup directories, in the order in which they are
// made.
type Cgroup struct {
	Dirs []CgroupDir `json:"dirs"`
}

// CgroupDir is one directory of one hierarchy.
type CgroupDir struct {
	Base    string        `json:"base"`              // the hierarchy's mount point; never made
	Path    string        `json:"path"`              // relative to Base
	Inherit bool          `json:"inherit,omitempty"` // cpuset of v1: fill cpus and mems from above first
	Enable  []string      `json:"enable,omitempty"`  // v2: controllers to enable on the way down
	Writes  []CgroupWrite `json:"writes,omitempty"`
	Join    bool          `json:"join,omitempty"`
	Program []byte        `json:"program,omitempty"` // v2: device program, eBPF instructions
}

// CgroupWrite is one limit. A strict one that cannot be had fails Create; any
// other one becomes a warning.
type CgroupWrite struct {
	File   string `json:"file"`
	Or     string `json:"or,omitempty"` // the file's name on other kernels
	Value  string `json:"value"`
	Strict bool   `json:"strict,omitempty"`
	Option string `json:"option,omitempty"` // what the user calls it, for the message
}
