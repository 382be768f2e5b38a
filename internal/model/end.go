package model

import "time"

// EndReason says whose doing the end of a run was.
type EndReason string

// The reasons.
const (
	EndExited EndReason = "exited" // the program's own
	EndSignal EndReason = "signal" // a signal that did not come through the engine
	EndOOM    EndReason = "oom"    // the kernel's, for memory
	EndHealth EndReason = "health" // the engine's, because the container was unhealthy and its label asks for that
	EndUser   EndReason = "user"   // a person's or client's: stop, kill, restart, rm
	EndEngine EndReason = "engine" // the engine's: no start, monitor lost
)

// End is why a run ended.
type End struct {
	Reason EndReason
	Signal string `json:",omitempty"` // that ended it: SIGKILL
	Text   string // for a person, whole: "killed by the user with SIGKILL"
	// GaveUp is the number of restarts after which the restart policy did not
	// try again; 0: it did, or there is none.
	GaveUp int `json:",omitempty"`
}

// Removal is how a container was removed.
type Removal struct {
	At      time.Time `json:"at"`
	How     string    `json:"how"`               // rm, --rm, prune
	Volumes bool      `json:"volumes,omitempty"` // with its anonymous volumes
	Keep    bool      `json:"keep,omitempty"`    // into the trash
	// Restore is the name under which it is coming back: what a daemon that
	// died on the way finishes.
	Restore string `json:"restore,omitempty"`
}

// Auto reports whether the container went by itself, at its end.
func (r Removal) Auto() bool { return r.How == RemovedAuto }

// How containers are removed.
const (
	RemovedByUser = "rm"
	RemovedAuto   = "--rm"
	RemovedPrune  = "prune"
)

// TrashItem is a removed container or volume that can come back.
type TrashItem struct {
	ID        string
	Type      string // container, volume
	Name      string
	Removed   time.Time
	Expires   time.Time
	How       string   `json:",omitempty"` // of a container: rm, --rm, prune
	Size      int64    // bytes on the disk; -1: not measured yet
	Image     string   `json:",omitempty"`
	ExitCode  int      `json:",omitempty"`
	End       *End     `json:",omitempty"`
	Container string   `json:",omitempty"` // of a volume: the container whose removal took it along
	Volumes   []string `json:",omitempty"` // of a container: those in the trash that would come back with it
}

// TrashReport is what the trash holds and its bounds, and for an emptying
// what went.
type TrashReport struct {
	Items []TrashItem
	Size  int64 // of all there are, also those that a filter leaves out; with images that only the trash keeps
	Limit int64 // bytes; 0: the trash is off
}

// TrashEmptied is what an emptying took.
type TrashEmptied struct {
	Containers, Volumes []string
	SpaceReclaimed      int64
}

// TrashRestored is what came back.
type TrashRestored struct {
	ID       string
	Type     string
	Name     string
	Volumes  []string // that came back with a container
	Warnings []string
}
