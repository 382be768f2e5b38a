package qemu

import (
	"fmt"
	"os"
	"strconv"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// nics is how many network interfaces every machine has: what may be connected
// later has to be there from the start, because virtio-mmio knows no hot-plug.
const nics = 4

// maxNics is how many a machine has that is started with more networks than
// that: those at its start, and no spare one.
const maxNics = 8

// hardware is what a QEMU command line depends on.
type hardware struct {
	binary                 string
	accel                  string // "kvm" or "tcg"
	cpus                   int
	memory                 int64  // bytes
	kernel, initrd         string // inside its container
	hostKernel, hostInitrd string
	lateInitrd             string // of a template and its clones
	commandLine            string
	taps                   []tap // at most maxNics
	noTaps                 bool  // the host has none: then only instances without a network come here
	disks                  []disk
	mode                   mode
	ahead                  bool     // of a clone: it rehearses and waits
	digest                 string   // of kernel and initramfs
	shares                 []string // names
}

// tap is a network interface.
type tap struct {
	link string // the tap on the host; "": not connected yet
}

// disk is a block device.
type disk struct {
	serial   string // how the guest finds it, at most 20 characters
	path     string
	size     int64 // bytes
	readOnly bool
	lock     bool // no other machine may have it
}

// diskSize is how large the root and the writable disk of every machine look:
// the guest of a template has asked for it, and a clone's does not ask again.
const diskSize = 64 << 30

// measure finds out the disks' sizes. Files that are shorter get a hole at their
// end.
func (h *hardware) measure() error {
	for i := range h.disks {
		d := &h.disks[i]
		st, err := os.Stat(d.path)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.serial, err)
		}
		d.size = st.Size()
		if (d.serial == serialRoot || d.serial == serialWritable) && d.size < diskSize {
			if err := os.Truncate(d.path, diskSize); err != nil {
				return fmt.Errorf("disk %s: %w", d.serial, err)
			}
			d.size = diskSize
		}
	}
	return nil
}

// emulatedCPU has everything but the promise that string instructions are fast:
// emulated, they move a byte at a time, and the guest's kernel would copy and
// clear all its memory with them.
const emulatedCPU = "max,-erms,-fsrm"

// command is the command line and the descriptors that it names, in order.
func (h *hardware) command() (args []string, files []vmmapi.File) {
	add := func(a ...string) { args = append(args, a...) }
	open := func(f vmmapi.File) string {
		files = append(files, f)
		return strconv.Itoa(vmmapi.FirstFile + len(files) - 1)
	}
	memory := strconv.FormatInt(h.memory, 10) + "B"
	add(h.binary, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", "microvm,isa-serial=on,rtc=on,memory-backend=ram", "-bios", "qboot.rom",
		"-global", "virtio-mmio.force-legacy=false",
		"-smp", strconv.Itoa(h.cpus), "-m", memory)
	h.memoryArgs(add, open, memory)
	if h.accel == "kvm" {
		add("-accel", "kvm", "-cpu", "host")
	} else {
		add("-accel", "tcg,thread=multi,tb-size=128", "-cpu", emulatedCPU)
	}
	add("-kernel", h.kernel, "-initrd", h.initrd, "-append", h.commandLine)

	add("-chardev", "socket,id=qmp,fd="+open(vmmapi.File{Kind: vmmapi.FileQMP}), "-mon", "chardev=qmp,mode=control")
	add("-chardev", "socket,id=console,fd="+open(vmmapi.File{Kind: vmmapi.FileConsole}), "-serial", "chardev:console")
	add("-chardev", "socket,id=agent,fd="+open(vmmapi.File{Kind: vmmapi.FileAgent}),
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name="+guestapi.PortName)
	for i, d := range h.disks {
		node, set := vmmapi.DiskNode(i), strconv.Itoa(i+1)
		if h.mode == template || h.ahead && i >= rehearsedDisks {
			add("-blockdev", fmt.Sprintf("driver=null-co,node-name=%s,read-only=%s,size=%d,read-zeroes=on", node, onOff(d.readOnly), d.size))
		} else {
			f := vmmapi.File{Kind: vmmapi.FileDisk, Path: d.path, ReadOnly: d.readOnly, Lock: d.lock}
			if h.ahead {
				f = vmmapi.File{Kind: vmmapi.FileGiven, Name: rehearsedFile(i)}
			}
			fd := open(f)
			add("-add-fd", "fd="+fd+",set="+set)
			add("-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=%s,discard=unmap,file.driver=file,file.filename=/dev/fdset/%s,file.aio=threads,file.locking=off", node, onOff(d.readOnly), set))
		}
		add("-device", fmt.Sprintf("virtio-blk-device,drive=%s,serial=%s,id=%s", node, d.serial, vmmapi.DeviceID(i)))
	}
	for i, t := range h.taps {
		id := "net" + strconv.Itoa(i)
		if h.mode == template || h.ahead {
			t.link = ""
		}
		// The first one is a tap in every machine, since what the guest finds its
		// device to be able to do is that of its backend, and a clone's has to be
		// able to do what its template's was.
		if t.link == "" && (i > 0 || h.noTaps) {
			add("-netdev", fmt.Sprintf("hubport,id=%s,hubid=%d", id, i))
		} else {
			add("-netdev", fmt.Sprintf("tap,id=%s,fd=%s,vhost=off", id, open(vmmapi.File{Kind: vmmapi.FileTap, Name: t.link})))
		}
		add("-device", fmt.Sprintf("virtio-net-device,netdev=%s,mac=%s", id, deviceMAC(i)))
	}
	h.shareArgs(add, open)
	add("-device", "virtio-rng-device", "-device", "virtio-balloon-device,deflate-on-oom=on,free-page-reporting="+onOff(h.mode == cold))
	return args, files
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// mode says how a machine comes to be.
type mode int

// The modes: started cold, started to become a template, made of one.
const (
	cold mode = iota
	template
	clone
)

// Descriptors of a template: its memory, and its state without that.
const (
	ramFile   = monitorapi.FileMore + "ram"
	stateFile = vmmapi.SaveFile
)

// cloneState is the number of a clone's descriptor of its template's state:
// the one behind that of its memory, which is the first.
const cloneState = vmmapi.FirstFile + 1

// memoryArgs gives the machine its memory. A clone's is the template's, each
// page until it is written to; pages cannot be given back then, because that
// would punch holes into the template. One with shares has a copy.
func (h *hardware) memoryArgs(add func(...string), open func(vmmapi.File) string, memory string) {
	if h.mode == cold {
		add("-object", "memory-backend-memfd,id=ram,share=on,size="+memory)
		return
	}
	at := "/proc/self/fd/" + open(vmmapi.File{Kind: vmmapi.FileGiven, Name: ramFile})
	add("-object", fmt.Sprintf("memory-backend-file,id=ram,share=%s,mem-path=%s,size=%s", onOff(h.mode == template || len(h.shares) > 0), at, memory))
	if h.mode == clone {
		open(vmmapi.File{Kind: vmmapi.FileGiven, Name: stateFile}) // the second one: see cloneState
		add("-incoming", "defer")
	}
}

// deviceMAC is the nth network device's own address, the same on every
// machine: a clone has its template's. The guest gives it the address that it
// has on its network.
func deviceMAC(n int) string { return fmt.Sprintf("06:00:77:68:00:%02x", n) }
