// Package vmmapi is what the qemu driver tells wharf-vmm beside monitorapi:
// data, nothing else.
package vmmapi

import (
	"encoding/json"
	"strconv"
	"time"

	"wharf/api/guestapi"
	"wharf/internal/runtime"
)

// Machine is a monitorapi.Start's Prepared: one VM and what runs in it.
type Machine struct {
	// QEMU is the container that QEMU itself runs in. Its first descriptors
	// beside stdio are Files, in their order, from FirstFile on.
	QEMU  runtime.Prepared `json:"qemu"`
	Files []File           `json:"files"`
	// Shares run beside it, each the other end of a vhost-user socket.
	Shares []Share `json:"shares,omitempty"`

	// Helper starts no process: the machine's agent is all that is wanted, and
	// the machine ends when it is told to.
	Helper bool `json:"helper,omitempty"`

	// Save makes a template: when the agent answers, the machine is stopped,
	// its state without its memory goes to the descriptor SaveFile, and it
	// ends. Its memory is the descriptor that QEMU has.
	Save bool `json:"save,omitempty"`
	// Incoming is QEMU's descriptor that a clone's state is read from; 0: it
	// boots.
	Incoming int `json:"incoming,omitempty"`
	// OwnMemory: the clone's memory is a copy of the template's and not a view.
	OwnMemory bool `json:"ownMemory,omitempty"`
	// Late are devices that a clone gets when its template's state has been
	// read, before it goes on: those that QEMU cannot read a state with. QEMU has
	// the device Plugger then, which goes when they are there.
	Late []Late `json:"late,omitempty"`

	// Ahead makes a clone before it is known whose it will be: Boot and Main are
	// a rehearsal's, after which it stands still and waits for a Machine with
	// Take, of which QEMU's control group, Boot, Main and what follows count.
	Ahead bool  `json:"ahead,omitempty"`
	Take  *Take `json:"take,omitempty"`

	// Memory is the machine's, in bytes, when its balloon may be used. Pressure is
	// how much of the host's has to be available for the guest to have all of it;
	// 0: it always has.
	Memory   int64 `json:"memory,omitempty"`
	Pressure int64 `json:"pressure,omitempty"`

	Boot guestapi.Boot    `json:"boot"`
	Main guestapi.Process `json:"main"`
	// BootTime is how long the agent may take to answer, and StopTime how long
	// the machine may take to go down after its process has ended.
	BootTime time.Duration `json:"bootTime"`
	StopTime time.Duration `json:"stopTime"`
	// Etc names files of the host whose text the guest has in Boot.Files; it
	// is sent again when they change.
	Etc []EtcFile `json:"etc,omitempty"`
}

// Take is what an instance gives to the machine that it takes.
type Take struct {
	Disks []File   `json:"disks"` // of kind FileDisk, in the order of the machine's
	Taps  []string `json:"taps"`  // of the network devices, in their order; "" is none
}

// DeviceID is the nth disk's device in QEMU.
func DeviceID(n int) string { return "blk" + strconv.Itoa(n) }

// DiskNode is what the nth disk's device has behind it at first.
func DiskNode(n int) string { return "disk" + strconv.Itoa(n) }

// Late is a device for an empty virtio-mmio slot.
type Late struct {
	Slot int `json:"slot"`
	// Device is device_add's arguments but for the slot.
	Device json.RawMessage `json:"device"`
}

// Plugger is the id of a virtio-scsi-device, whose bus is lent to slots as
// their hotplug handler. It never runs, so its slot is one whose interrupt gets
// lost.
const (
	Plugger     = "plugger"
	PluggerSlot = 0
)

// Slot is the bus of a virtio-mmio slot of microvm.
func Slot(n int) string { return "virtio-mmio-bus." + strconv.Itoa(n) }

// FirstFile is the number of the first of QEMU's descriptors.
const FirstFile = 3

// FileKind says what one of QEMU's descriptors is.
type FileKind string

// The kinds of file.
const (
	FileQMP     FileKind = "qmp"     // a socket for QMP
	FileAgent   FileKind = "agent"   // a socket behind the agent's port
	FileConsole FileKind = "console" // a socket that takes the serial console
	FileDisk    FileKind = "disk"    // Path, opened
	FileGiven   FileKind = "given"   // came with the start by the name Name
	FileTap     FileKind = "tap"     // the tap Name of the network namespace that wharf-vmm is in; "": one that is connected to nothing
	FileShare   FileKind = "share"   // the vhost-user socket of share Name
)

// File is one of QEMU's descriptors.
type File struct {
	Kind     FileKind `json:"kind"`
	Path     string   `json:"path,omitempty"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	// Lock: a disk that one machine has for itself. It is locked (flock(2)) as
	// long as QEMU lives; one that is locked is refused.
	Lock bool   `json:"lock,omitempty"`
	Name string `json:"name,omitempty"`
}

// Share is one virtiofsd. Its descriptor FirstFile is its end of the socket.
type Share struct {
	Name     string           `json:"name"`
	Prepared runtime.Prepared `json:"prepared"`
}

// SaveFile is the name of the descriptor that a template's state goes to.
const SaveFile = "more:state"

// EtcFile is a file of the host's and its place in the guest.
type EtcFile struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

// Operations beside monitorapi's. Request.Body is what each says.
const (
	OpGuest   = "guest"   // a guestapi.Request, passed on; the connection becomes its stream
	OpQMP     = "qmp"     // QMP; the answer's return value
	OpBalloon = "balloon" // Balloon
	OpPlug    = "plug"    // Plug: a tap becomes the network of a device that has none
)

// Plug connects a network device, by its number, to a tap of the daemon's
// network namespace, which wharf-vmm is in; with Out it takes the device's tap
// away.
type Plug struct {
	Device int    `json:"device"`
	Tap    string `json:"tap"`
	Out    bool   `json:"out,omitempty"`
	// Direct: the device was made with its tap, not with a hub to plug into.
	Direct bool `json:"direct,omitempty"`
}

// Balloon sets how much memory the machine may have: at most what it was made
// with, at least what a guest needs. A clone keeps all of it.
type Balloon struct {
	Memory int64 `json:"memory"` // bytes
}

// QMP is a command for QEMU.
type QMP struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
}
