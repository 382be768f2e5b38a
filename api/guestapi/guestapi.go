// Package guestapi is what the host (wharf-vmm) and wharf-guest, PID 1 of a
// microVM, say to each other: data in the frames of package frame, nothing
// else, so that both ends and the tests can use it.
//
// # Channel
//
// One virtio-serial port named PortName carries everything. The host begins a
// session with a Hello; the guest skips what comes before it (the rest of an
// earlier session, in a clone of a template) and answers with its own, which
// has the same nonce. Then both run yamux over the port: the host opens
// streams, the guest accepts them. A Hello is no yamux frame: one that comes
// while a session is open ends that session and begins another.
//
// Every stream is one request: a Request frame, answered by Reply or Failed.
// After Reply, OpStart and OpExec go on with the process's streams, and the
// archive operations with Data; all others end.
//
// # Order
//
// OpState at any time. OpBoot once, then OpStart once (a helper guest never
// starts anything). Everything else needs OpBoot. The guest lives on after
// its process has ended, for copies, until OpPowerOff.
//
// # Frames
//
// Those of package frame, as in monitorapi.
//
// # Trust
//
// The guest's kernel belongs to whoever runs in it: the host takes everything
// that comes from it as hostile, bounds it (MaxControl, MaxData) and never
// waits for it without a limit.
//
// # Versions
//
// Both ends come from one installation, but a VM outlives an upgrade of the
// daemon. Fields are only ever added, unknown ones are ignored; an Op that
// the guest does not know is refused with KindUnimplemented.
package guestapi

import (
	"encoding/json"
	"time"
)

// Version is the protocol spoken by this build.
const Version = 1

// PortName is the virtio-serial port's name (virtserialport's name=).
const PortName = "wharf.agent"

// Places in the guest. Layers are numbered from 0, the topmost; shares and
// volumes in the host's own order.
const (
	RunDir     = "/run/wharf"
	LayersDir  = RunDir + "/layers" // LayersDir/N
	WritableAt = RunDir + "/rw"     // the ext4 disk; upper and work are below
	UpperDir   = WritableAt + "/upper"
	WorkDir    = WritableAt + "/work"
	SharesDir  = RunDir + "/shares"  // SharesDir/N: virtiofs
	VolumesDir = RunDir + "/volumes" // VolumesDir/N: block volumes
	EtcDir     = RunDir + "/etc"     // hosts, hostname, resolv.conf
	RootDir    = RunDir + "/root"    // the container's root in a guest without its process
	CgroupRoot = "/sys/fs/cgroup"
	CgroupPath = "wharf/main" // the container's cgroup below CgroupRoot
)

// Frames of streams. Stdout, Stderr and Data's answers flow from the guest,
// Stdin, CloseStdin, Resize and Signal to it. ExitFrame and Error end a stream.
const (
	Stdin      Type = 0
	Stdout     Type = 1
	Stderr     Type = 2
	ExitFrame  Type = 4 // Exit
	Error      Type = 5 // Failed
	CloseStdin Type = 6 // no payload
	Resize     Type = 7 // WinSize
	Signal     Type = 8 // SignalNumber
	Data       Type = 9 // a piece of a file or archive; an empty one is its end
)

// Frames of control.
const (
	RequestFrame Type = 20 // Request
	ReplyFrame   Type = 21 // Reply
)

// Op is what a Request asks for.
type Op string

// The operations. "stream" says what follows the reply.
const (
	OpState    Op = "state"    // Reply.State
	OpBoot     Op = "boot"     // Boot; done when everything is mounted and configured
	OpStart    Op = "start"    // Process; Reply.Pid when execve(2) succeeded; stream: the process's, then ExitFrame
	OpExec     Op = "exec"     // Process with ID; as OpStart
	OpSignal   Op = "signal"   // Target, Signal
	OpResize   Op = "resize"   // Target, Size
	OpPause    Op = "pause"    // every process of the container stops
	OpResume   Op = "resume"   //
	OpStats    Op = "stats"    // Reply.Stats
	OpTop      Op = "top"      // Reply.Top
	OpUpdate   Op = "update"   // Update: limits of the container's cgroup
	OpLink     Op = "link"     // Interface: configure one, found by its MAC, anew; nobody sees it before
	OpUnlink   Op = "unlink"   // Interface: take it down and out of sight
	OpMount    Op = "mount"    // Mount
	OpUnmount  Op = "unmount"  // Path: a place below RunDir
	OpFile     Op = "file"     // File: write it anew, in place (it is bound into the container)
	OpStat     Op = "stat"     // Path; Reply.Stat
	OpGet      Op = "get"      // Path; Reply.Stat; stream: Data (tar)
	OpPut      Op = "put"      // Path, Put; stream to the guest: Data (tar), then a second Reply
	OpExport   Op = "export"   // Top; stream: Data (tar of the root)
	OpUpper    Op = "upper"    // stream: Data (tar of what changed, as an image layer)
	OpChanges  Op = "changes"  // with Stream: Reply.Streaming, then Data: a Change in JSON on each line; else Reply.Changes
	OpFreshen  Op = "freshen"  // Fresh: after a clone, or a pause of the whole machine
	OpSync     Op = "sync"     // sync(2)
	OpHalt     Op = "halt"     // end everything and let go of the disks; QEMU may be killed once it is answered
	OpRehearse Op = "rehearse" // before a template is saved: do what every clone would have to do
	OpReset    Op = "reset"    // of a Boot whose ID is RehearsalID, when its process has ended: forget all of it
	OpForget   Op = "forget"   // cached names and files that nobody uses: a share's server has each of them open
	OpTrim     Op = "trim"     // FITRIM of the writable disk; Reply.Freed
	OpPowerOff Op = "poweroff" // sync, unmount, power off; the reply comes before the end
)

// Request is the first frame of a stream.
type Request struct {
	Version int `json:"version"`
	Op      Op  `json:"op"`
	// Target names an exec'd process for signal and resize; "" is the main
	// process.
	Target string `json:"target,omitempty"`

	Boot      *Boot        `json:"boot,omitempty"`
	Process   *Process     `json:"process,omitempty"`
	Signal    SignalNumber `json:"signal,omitempty"`
	Size      *WinSize     `json:"size,omitempty"`
	Update    *Update      `json:"update,omitempty"`
	Interface *Interface   `json:"interface,omitempty"`
	Mount     *Mount       `json:"mount,omitempty"`
	File      *File        `json:"file,omitempty"`
	Path      string       `json:"path,omitempty"`
	Put       *Put         `json:"put,omitempty"`
	Name      string       `json:"name,omitempty"` // stat, get: what the root itself is called; "" is "/"
	Stream    bool         `json:"stream,omitempty"`
	Top       bool         `json:"top,omitempty"` // export: with "./" and its attributes first, and without holes
	Fresh     *Fresh       `json:"fresh,omitempty"`
}

// Reply answers a Request.
type Reply struct {
	Version  int      `json:"version"`
	Pid      int      `json:"pid,omitempty"` // in the guest's first pid namespace
	Warnings []string `json:"warnings,omitempty"`
	Trace    []Step   `json:"trace,omitempty"`

	State   *State          `json:"state,omitempty"`
	Stats   *Stats          `json:"stats,omitempty"`
	Top     *Top            `json:"top,omitempty"`
	Stat    json.RawMessage `json:"stat,omitempty"` // container.PathStat of Docker's API
	Changes []Change        `json:"changes,omitempty"`
	// Streaming: what was asked for follows. An agent of an earlier version
	// has it in the reply.
	Streaming bool   `json:"streaming,omitempty"`
	Freed     uint64 `json:"freed,omitempty"` // bytes
}

// Step is a point on the way of a start: what had been done when.
type Step struct {
	Name string `json:"name"`
	At   int64  `json:"at"` // nanoseconds since 1970, of the guest's clock
}

// Fresh is what no two machines may share and no clone may keep.
type Fresh struct {
	Time      int64  `json:"time,omitempty"`      // nanoseconds since 1970; 0 leaves the clock
	Entropy   []byte `json:"entropy,omitempty"`   // 32 bytes or more, credited to the kernel's pool
	MachineID string `json:"machineId,omitempty"` // 32 hexadecimal digits
	Hostname  string `json:"hostname,omitempty"`
}

// Boot makes an idle guest this instance's: everything but its process.
type Boot struct {
	ID string `json:"id"`
	Fresh
	Interfaces []Interface `json:"interfaces,omitempty"`
	// Sysctls are the machine's: "net.ipv4.ip_forward", "vm.max_map_count".
	Sysctls map[string]string `json:"sysctls,omitempty"`
	Mounts  []Mount           `json:"mounts,omitempty"` // in their order
	Files   []File            `json:"files,omitempty"`  // written after the mounts
	// Late is how many devices the machine got after its kernel had looked for
	// them, in slots that were empty then: it is to look again.
	Late int `json:"late,omitempty"`
	// Root is mounted as an overlay at RootDir by the agent, for a guest that
	// starts no process: a stopped instance's files.
	Root *Overlay `json:"root,omitempty"`
	// Orphaned is after how many seconds without a session the guest powers
	// itself off: nobody holds its other end any more. 0 is never.
	Orphaned int `json:"orphaned,omitempty"`
}

// RehearsalID is the ID of a Boot that is a rehearsal: a second one may follow
// after OpReset.
const RehearsalID = "rehearsal"

// Overlay is a root of layers.
type Overlay struct {
	Lower []string `json:"lower"` // topmost first
	Upper string   `json:"upper,omitempty"`
	Work  string   `json:"work,omitempty"`
}

// Interface is a network interface, found by its hardware address.
type Interface struct {
	MAC string `json:"mac"`
	// Device is the address by which to find it when it is to get MAC: a
	// spare device that is plugged in. "": it has MAC already.
	Device    string            `json:"device,omitempty"`
	Name      string            `json:"name"` // eth0
	MTU       int               `json:"mtu,omitempty"`
	Addresses []string          `json:"addresses,omitempty"` // "172.17.0.2/16", "fd00::2/64"
	Routes    []Route           `json:"routes,omitempty"`
	Sysctls   map[string]string `json:"sysctls,omitempty"` // of net.*, with "IFNAME" for the name
}

// Route is one route through its interface. An empty Destination is the
// default route, an empty Gateway a route on the link.
type Route struct {
	Destination string `json:"destination,omitempty"`
	Gateway     string `json:"gateway,omitempty"`
	Metric      int    `json:"metric,omitempty"`
}

// Mount is a file system that the agent mounts in the guest. Target is below
// RunDir and is made.
type Mount struct {
	// Type is erofs, ext4, xfs, virtiofs, tmpfs or 9p.
	Type string `json:"type"`
	// Disk is a virtio-blk device's serial, Tag a virtiofs tag.
	Disk     string   `json:"disk,omitempty"`
	Tag      string   `json:"tag,omitempty"`
	Target   string   `json:"target"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	Options  []string `json:"options,omitempty"` // mount(8)'s words
	// Grow resizes an ext4 to its disk after mounting.
	Grow bool `json:"grow,omitempty"`
	// Dirs are made below Target after mounting, 0755 (upper, work).
	Dirs []string `json:"dirs,omitempty"`
	// Fill is a directory of the image (LayersDir/0) whose content, owner and
	// mode the first of Dirs gets while that is empty.
	Fill string `json:"fill,omitempty"`
}

// File is a small file below RunDir.
type File struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode,omitempty"` // 0644 unless given
	Data []byte `json:"data"`
}

// Process describes a process to start.
type Process struct {
	ID string `json:"id,omitempty"` // of an exec
	// Prepared is the runtime's Prepared (OpStart) or PreparedExec (OpExec).
	Prepared  json.RawMessage `json:"prepared"`
	Terminal  bool            `json:"terminal,omitempty"`
	OpenStdin bool            `json:"openStdin,omitempty"` // else stdin is /dev/null
}

// Update changes limits of the container's cgroup.
type Update struct {
	Resources json.RawMessage `json:"resources"` // specs.LinuxResources
}

// Put is how a tar is unpacked, as model.PutOptions.
type Put struct {
	NoOverwriteDirNonDir bool   `json:"noOverwriteDirNonDir,omitempty"`
	CopyUIDGID           bool   `json:"copyUidGid,omitempty"`
	User                 string `json:"user,omitempty"`
	NoDevices            bool   `json:"noDevices,omitempty"`
	Top                  bool   `json:"top,omitempty"`
}

// Failed is an error. Code is the exit code that a shell would give when the
// image or the request is to blame (127, 126, 128), else 0.
type Failed struct {
	Kind string `json:"kind"`
	Code int    `json:"code,omitempty"`
	Text string `json:"text"`
}

func (f *Failed) Error() string { return f.Text }

// Kinds of Failed; the host maps them to errdefs.
const (
	KindInvalid       = "invalid"
	KindNotFound      = "notfound"
	KindConflict      = "conflict"
	KindUnavailable   = "unavailable"
	KindUnimplemented = "unimplemented"
	KindInternal      = "internal"
)

// State is what the agent knows.
type State struct {
	Agent    string        `json:"agent"`  // version
	Kernel   string        `json:"kernel"` // uname -r
	Uptime   time.Duration `json:"uptime"`
	Booted   bool          `json:"booted"`
	ID       string        `json:"id,omitempty"`
	Pid      int           `json:"pid,omitempty"` // of the main process while it lives
	Paused   bool          `json:"paused,omitempty"`
	Exit     *Exit         `json:"exit,omitempty"`
	Execs    []string      `json:"execs,omitempty"` // running ones
	OOMKills uint64        `json:"oomKills,omitempty"`
	Memory   Memory        `json:"memory"`
	CPUs     int           `json:"cpus"`           // online
	Time     int64         `json:"time,omitempty"` // its clock, in nanoseconds since 1970
}

// Memory is the machine's, in bytes (proc_meminfo(5)).
type Memory struct {
	Total     uint64 `json:"total"`
	Free      uint64 `json:"free"`
	Available uint64 `json:"available"`
}

// Stats are the container's counters: CPU, memory, pids and block I/O in
// Docker's form, networks by interface.
type Stats struct {
	Docker   json.RawMessage    `json:"docker"` // container.StatsResponse without networks
	Networks map[string]Network `json:"networks,omitempty"`
	OOMKills uint64             `json:"oomKills,omitempty"`
}

// Network is an interface's counters (proc_net_dev(5)).
type Network struct {
	RxBytes   uint64 `json:"rxBytes"`
	RxPackets uint64 `json:"rxPackets"`
	RxErrors  uint64 `json:"rxErrors"`
	RxDropped uint64 `json:"rxDropped"`
	TxBytes   uint64 `json:"txBytes"`
	TxPackets uint64 `json:"txPackets"`
	TxErrors  uint64 `json:"txErrors"`
	TxDropped uint64 `json:"txDropped"`
}

// Top lists the container's processes, with the files of the guest's /proc
// that ps reads, by their names below it: "uptime", "meminfo", and "stat",
// "status" and "cmdline" of each process. Ids are those of the guest's first
// pid namespace.
type Top struct {
	Pids  []int             `json:"pids"`
	Files map[string][]byte `json:"files"`
}

// Change is one path that differs from the image. Kind is that of Docker's
// API: 0 modified, 1 added, 2 deleted.
type Change struct {
	Path string `json:"path"`
	Kind int    `json:"kind"`
}

// Exit is how a process ended. Its JSON is that of monitorapi.Exit.
type Exit struct {
	Code      int       `json:"code"`
	At        time.Time `json:"at"`
	Signal    int       `json:"signal,omitempty"` // that ended it
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// WinSize is a terminal's size.
type WinSize struct {
	Height uint `json:"height"`
	Width  uint `json:"width"`
}

// SignalNumber is a signal by its Linux number.
type SignalNumber int
