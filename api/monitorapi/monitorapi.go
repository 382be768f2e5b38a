// Package monitorapi is what wharfd and wharf-monitor say to each other: data
// in the frames of package frame, nothing else, so that both ends and the tests
// can use it.
//
// # Two sockets
//
// The control socket is descriptor 3 of a new monitor, one end of a
// socketpair. The daemon sends one Start frame, with descriptors, at once or
// when it needs a monitor (a spare one waits); the monitor answers Started
// or Failed. A Start with Hold is followed by a Go, until which the container
// is only prepared. An Ahead may come before the Start, and is answered by Ready
// or Failed. After Started the control socket stays open as the daemon's held
// wait: the monitor sends Exit on it when the container has ended. The daemon
// closing it (or dying) is no event for the container.
//
// instances/<id>/monitor.sock takes any number of connections, each with one
// Request frame, answered by Reply or Failed; then the connection is that
// request's stream (attach, exec, wait) or is closed.
//
// # Frames
//
// Every frame is a type byte, three zero bytes, the payload's length as 32
// bits big-endian, and the payload: the layout of Docker's multiplexed stream.
// Payloads are JSON for control types and raw bytes for data types.
//
// # Versions
//
// A daemon talks to monitors that an older daemon started. Every Request
// carries the highest version that the daemon speaks and every Reply the
// monitor's own. Fields are only ever added; a monitor ignores fields that it
// does not know and refuses an Op that it does not know with KindUnimplemented.
package monitorapi

import (
	"encoding/json"
	"time"
)

// Version is the protocol spoken by this build.
const Version = 1

// Names inside instances/<id>.
const (
	SocketName = "monitor.sock"
	ExitName   = "exit" // JSON of Exit, written once, by rename
)

// Frames of streams. Stdout and Stderr flow from the monitor, the others to
// it, Exit and Failed end a stream.
const (
	Stdin      Type = 0
	Stdout     Type = 1
	Stderr     Type = 2
	ExitFrame  Type = 4 // Exit
	Error      Type = 5 // Failed
	CloseStdin Type = 6 // no payload
	Resize     Type = 7 // WinSize
	Signal     Type = 8 // SignalNumber
)

// Frames of control.
const (
	AheadFrame   Type = 15 // Ahead
	StartFrame   Type = 16 // Start
	StartedFrame Type = 17 // Started
	GoFrame      Type = 18 // no payload; what a Start with Hold waits for
	ReadyFrame   Type = 19 // Ready: what Ahead said is done, and the monitor waits for its Start
	RequestFrame Type = 20 // Request
	ReplyFrame   Type = 21 // Reply
)

// Ahead gives a monitor that has no Start yet something to do before it is
// known what it will hold. The end of the socket before the Start ends the
// monitor and what it made.
type Ahead struct {
	Version int `json:"version"`
	// Body is the engine's, not looked into here.
	Body json.RawMessage `json:"body"`
	// Files are as in Start; none is the instance's.
	Files []string `json:"files,omitempty"`
}

// Ready answers Ahead.
type Ready struct {
	Version int `json:"version"`
}

// Start asks a new monitor to start its container.
type Start struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	// Prepared is the runtime's Prepared, not looked into here.
	Prepared json.RawMessage `json:"prepared"`
	// Files names the descriptors that come with this frame (SCM_RIGHTS), in
	// their order.
	Files []string `json:"files,omitempty"`

	Terminal  bool `json:"terminal,omitempty"`
	OpenStdin bool `json:"openStdin,omitempty"` // else stdin is /dev/null
	StdinOnce bool `json:"stdinOnce,omitempty"` // close stdin when the first client that attached it leaves
	// Owner is the host user and group id that owns the stdio pipes: the
	// container's root, so that it may open /dev/stdout.
	Owner uint32 `json:"owner,omitempty"`
	// Waiting attachments are awaited (at most 10 s) before output is read.
	Waiting int `json:"waiting,omitempty"`
	// Hold makes the container wait for a GoFrame on the control socket before
	// its program is executed. The end of the socket ends it.
	Hold bool `json:"hold,omitempty"`
	// Log is the log writer's plan, not looked into here.
	Log json.RawMessage `json:"log"`
}

// Names in Start.Files.
const (
	FileDir    = "dir"    // the instance's directory, to work in
	FileStderr = "stderr" // where the monitor's own messages go
	FileUser   = "user"   // namespaces that were made before
	FileNet    = "net"
	// FileMore begins the names of descriptors that the monitor hands on as
	// they are (a VM's taps).
	FileMore = "more:"
)

// Started answers Start: execve(2) of the container's process succeeded.
type Started struct {
	Version  int      `json:"version"`
	Pid      int      `json:"pid"`
	Warnings []string `json:"warnings,omitempty"`
	Trace    []Step   `json:"trace,omitempty"`
}

// Step is a point on the way of a start: what had been done when.
type Step struct {
	Name string `json:"name"`
	At   int64  `json:"at"` // nanoseconds since 1970
}

// Failed is an error. Code is the exit code that a shell would give when the
// image or the request is to blame (127, 126, 128), else 0.
type Failed struct {
	Kind string `json:"kind"`
	Code int    `json:"code,omitempty"`
	Text string `json:"text"`
	// Told: a machine's agent answered so, about the process. Another machine
	// would say the same.
	Told bool `json:"told,omitempty"`
	// Down: it did not come up itself. QEMU ended, or nothing answered.
	Down bool `json:"down,omitempty"`
}

func (f *Failed) Error() string { return f.Text }

// Kinds of Failed; the daemon maps them to errdefs.
const (
	KindInvalid       = "invalid"
	KindNotFound      = "notfound"
	KindUnavailable   = "unavailable"
	KindUnimplemented = "unimplemented"
	KindConflict      = "conflict"
	KindInternal      = "internal"
)

// Op is what a Request asks for.
type Op string

// The operations.
const (
	OpWait   Op = "wait"   // Reply, later ExitFrame (of Exec if set)
	OpAttach Op = "attach" // Reply, then the main process's streams
	OpExec   Op = "exec"   // Reply with Pid, then the new process's streams and ExitFrame
	OpSignal Op = "signal" // Reply
	OpResize Op = "resize" // Reply
	OpState  Op = "state"  // Reply with State
)

// Request is the first frame of a connection to monitor.sock. Exec names an
// exec'd process for wait, signal and resize; "" is the main process.
type Request struct {
	Version int    `json:"version"`
	Op      Op     `json:"op"`
	Exec    string `json:"exec,omitempty"`

	Attach *Attach      `json:"attach,omitempty"`
	Start  *Exec        `json:"start,omitempty"`
	Signal SignalNumber `json:"signal,omitempty"`
	Size   *WinSize     `json:"size,omitempty"`

	// Body belongs to operations that only some monitors know (a VM's).
	Body json.RawMessage `json:"body,omitempty"`

	// MaxReply is the longest frame that is taken in answer, for what comes
	// from less trusted places than a monitor; 0 is MaxControl. It is not sent.
	MaxReply int `json:"-"`
}

// Attach chooses streams. With a terminal everything is Stdout.
type Attach struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Exec describes a further process.
type Exec struct {
	ID        string          `json:"id"`
	Prepared  json.RawMessage `json:"prepared"` // the runtime's PreparedExec
	Terminal  bool            `json:"terminal,omitempty"`
	OpenStdin bool            `json:"openStdin,omitempty"`
	Owner     uint32          `json:"owner,omitempty"`
}

// Reply answers a Request.
type Reply struct {
	Version  int      `json:"version"`
	Pid      int      `json:"pid,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	State    *State   `json:"state,omitempty"`

	Body json.RawMessage `json:"body,omitempty"` // answer to a request with one
}

// State is what a monitor knows.
type State struct {
	ID        string         `json:"id"`
	Pid       int            `json:"pid"` // 0 after the end
	StartedAt time.Time      `json:"startedAt"`
	Exit      *Exit          `json:"exit,omitempty"`
	Warnings  []string       `json:"warnings,omitempty"`
	Execs     []ExecState    `json:"execs,omitempty"` // running ones, and the latest that ended
	Log       LogState       `json:"log"`
	Attached  map[string]int `json:"attached,omitempty"` // clients by stream
}

// ExecState is one exec'd process.
type ExecState struct {
	ID   string `json:"id"`
	Pid  int    `json:"pid"`
	Exit *Exit  `json:"exit,omitempty"`
}

// LogState tells how the log is doing. Lost counts are of this run.
type LogState struct {
	Driver    string `json:"driver"`
	LostLines uint64 `json:"lostLines,omitempty"`
	LostBytes uint64 `json:"lostBytes,omitempty"`
	Gaps      uint64 `json:"gaps,omitempty"`
	Failing   string `json:"failing,omitempty"` // the error now, "" when the last write worked
}

// Exit is how a process ended. Its JSON is that of the daemon's model.Exit.
type Exit struct {
	Code      int       `json:"code"`
	At        time.Time `json:"at"`
	Signal    int       `json:"signal,omitempty"`
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
