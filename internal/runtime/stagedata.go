package runtime

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Stage is what the init stage (or the exec stage) is told: what happens
// inside the new namespaces, up to execve. prepare makes it.
type Stage struct {
	Exec bool `json:"exec,omitempty"` // a further process: nothing is mounted or set up

	Root   StageRoot    `json:"root"`
	Mounts []StageMount `json:"mounts,omitempty"`
	Nodes  []Node       `json:"nodes,omitempty"` // device nodes to make in the root, absolute paths

	MaskedPaths   []string     `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string     `json:"readonlyPaths,omitempty"`
	Hostname      string       `json:"hostname,omitempty"`
	Domainname    string       `json:"domainname,omitempty"`
	Sysctl        [][2]string  `json:"sysctl,omitempty"`
	Hooks         bool         `json:"hooks,omitempty"` // the caller has hooks to run before the root is entered
	CreateHooks   []specs.Hook `json:"createHooks,omitempty"`
	StartHooks    []specs.Hook `json:"startHooks,omitempty"`
	HookState     *specs.State `json:"hookState,omitempty"`

	Args     []string  `json:"args"`
	Env      []string  `json:"env,omitempty"`
	Cwd      string    `json:"cwd"`
	User     StageUser `json:"user"`
	Caps     *Caps     `json:"caps,omitempty"` // nil: none
	Init     bool      `json:"init,omitempty"` // our init in front of the process
	Terminal bool      `json:"terminal,omitempty"`

	NoNewPrivs  bool       `json:"noNewPrivs,omitempty"`
	Seccomp     *Seccomp   `json:"seccomp,omitempty"`
	Keyring     string     `json:"keyring,omitempty"` // name of the new session keyring; "": keep
	Label       string     `json:"label,omitempty"`   // SELinux
	AppArmor    string     `json:"appArmor,omitempty"`
	Personality *uint64    `json:"personality,omitempty"`
	Scheduler   *Sched     `json:"scheduler,omitempty"`
	IOPriority  *int       `json:"ioPriority,omitempty"` // as ioprio_set(2) wants it
	Affinity    []uint64   `json:"affinity,omitempty"`   // CPU mask; nil: all that the cgroup allows
	MemPolicy   *MemPolicy `json:"memPolicy,omitempty"`
}

// MemPolicy is set_mempolicy(2)'s arguments.
type MemPolicy struct {
	Mode  int      `json:"mode"` // with flags
	Nodes []uint64 `json:"nodes,omitempty"`
}

// StageRoot says how the root is entered.
type StageRoot struct {
	Target      string `json:"target,omitempty"` // where it is mounted before pivot_root; "" is "/"
	ReadOnly    bool   `json:"readOnly,omitempty"`
	Propagation uint64 `json:"propagation,omitempty"` // MS_*, MS_REC
	// Chroot: the mount namespace is somebody else's. The root is mounted at
	// Target in it and entered by chroot(2); a further process enters the
	// first one's root.
	Chroot bool `json:"chroot,omitempty"`
}

// StageMount is one mount, in order. With Slot it is a detached mount from
// the caller's side (index into Prepared.Mounts), else a new file system.
type StageMount struct {
	Slot    int      `json:"slot"` // -1: none
	FS      string   `json:"fs,omitempty"`
	Source  string   `json:"source,omitempty"`
	Dest    string   `json:"dest"`
	Attr    uint64   `json:"attr,omitempty"`    // MOUNT_ATTR_* of the new mount
	RecSet  uint64   `json:"recSet,omitempty"`  // recursive ones
	Data    []string `json:"data,omitempty"`    // file system options
	Prop    uint64   `json:"prop,omitempty"`    // propagation of the mount
	RecProp uint64   `json:"recProp,omitempty"` // and of the tree
	// LateReadOnly makes the mount read-only when everything below it is in
	// place (/dev).
	LateReadOnly bool `json:"lateReadOnly,omitempty"`
	CopyUp       bool `json:"copyUp,omitempty"` // tmpfs: starts with the directory's content
	// Fallback is bound read-only from the host's tree when the kernel does
	// not allow the mount in this user namespace: proc, sysfs, mqueue.
	Fallback string       `json:"fallback,omitempty"`
	Cgroup   []CgroupView `json:"cgroup,omitempty"` // FS "cgroup": what is shown
	Link     string       `json:"link,omitempty"`   // a symbolic link instead of a mount
	// Bind is made by the stage itself, in its turn: its source may be there
	// only by an earlier mount. Not with a user namespace, whose root may not
	// reach the source.
	Bind *HostMount `json:"bind,omitempty"`
	// BindUser is the slot of the user namespace that Bind is idmapped with,
	// counted from 1; 0: none.
	BindUser int `json:"bindUser,omitempty"`
}

// CgroupView is a hierarchy shown below a v1 cgroup mount.
type CgroupView struct {
	Name  string   `json:"name"`           // directory
	Slot  int      `json:"slot"`           // bind from the caller's side, -1: mount it in the cgroup namespace
	Data  string   `json:"data,omitempty"` // cgroup mount options
	V2    bool     `json:"v2,omitempty"`
	Links []string `json:"links,omitempty"` // further names
}

// StageUser is the user: looked up inside by name, or numbers.
type StageUser struct {
	Lookup   bool     `json:"lookup,omitempty"`
	Name     string   `json:"name,omitempty"` // "", name, uid, name:group, uid:gid
	GroupAdd []string `json:"groupAdd,omitempty"`
	UID      uint32   `json:"uid,omitempty"`
	GID      uint32   `json:"gid,omitempty"`
	Groups   []uint32 `json:"groups,omitempty"`
	Umask    *uint32  `json:"umask,omitempty"`
}

// Caps are capability sets as bit masks.
type Caps struct {
	Bounding    uint64 `json:"bounding,omitempty"`
	Effective   uint64 `json:"effective,omitempty"`
	Permitted   uint64 `json:"permitted,omitempty"`
	Inheritable uint64 `json:"inheritable,omitempty"`
	Ambient     uint64 `json:"ambient,omitempty"`
}

// Seccomp is a compiled filter: struct sock_filter, 8 bytes each, in the
// machine's byte order.
type Seccomp struct {
	Filter []byte `json:"filter"`
	Flags  uint   `json:"flags,omitempty"`
	Notify bool   `json:"notify,omitempty"` // send the listener to the caller
}

// Sched is sched_setattr(2)'s argument.
type Sched struct {
	Policy   uint32 `json:"policy"`
	Flags    uint64 `json:"flags,omitempty"`
	Nice     int32  `json:"nice,omitempty"`
	Priority uint32 `json:"priority,omitempty"`
	Runtime  uint64 `json:"runtime,omitempty"`
	Deadline uint64 `json:"deadline,omitempty"`
	Period   uint64 `json:"period,omitempty"`
}

// readyReply is what the stage reports before it waits.
type readyReply struct {
	UID      uint32   `json:"uid"` // inside
	Warnings []string `json:"warnings,omitempty"`
	Trace    Trace    `json:"trace,omitempty"`
}
