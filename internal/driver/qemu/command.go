package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"wharf/api/guestapi"
	"wharf/internal/vmm/vmmapi"
)

// nics is how many network interfaces every machine has: what may be connected
// later has to be there from the start, because virtio-mmio knows no hot-plug.
const nics = 4

// hardware is what a QEMU command line depends on.
type hardware struct {
	binary                 string
	accel                  string // "kvm" or "tcg"
	cpus                   int
	memory                 int64  // bytes
	kernel, initrd         string // inside its container
	hostKernel, hostInitrd string
	commandLine            string
	taps                   []tap // at most nics
	disks                  []disk
	shares                 []string // names
}

// tap is a network interface.
type tap struct {
	mac  string
	link string // the tap on the host; "": not connected yet
}

// disk is a block device.
type disk struct {
	serial   string // how the guest finds it, at most 20 characters
	path     string
	readOnly bool
}

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
	add("-object", "memory-backend-memfd,id=ram,share=on,size="+memory)
	if h.accel == "kvm" {
		add("-accel", "kvm", "-cpu", "host")
	} else {
		add("-accel", "tcg,thread=multi", "-cpu", "max")
	}
	add("-kernel", h.kernel, "-initrd", h.initrd, "-append", h.commandLine)

	add("-chardev", "socket,id=qmp,fd="+open(vmmapi.File{Kind: vmmapi.FileQMP}), "-mon", "chardev=qmp,mode=control")
	add("-chardev", "socket,id=console,fd="+open(vmmapi.File{Kind: vmmapi.FileConsole}), "-serial", "chardev:console")
	add("-chardev", "socket,id=agent,fd="+open(vmmapi.File{Kind: vmmapi.FileAgent}),
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name="+guestapi.PortName)
	for i, d := range h.disks {
		fd := open(vmmapi.File{Kind: vmmapi.FileDisk, Path: d.path, ReadOnly: d.readOnly})
		node, set := "disk"+strconv.Itoa(i), strconv.Itoa(i+1)
		add("-add-fd", "fd="+fd+",set="+set)
		add("-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=%s,discard=unmap,file.driver=file,file.filename=/dev/fdset/%s,file.aio=threads,file.locking=off", node, onOff(d.readOnly), set))
		add("-device", fmt.Sprintf("virtio-blk-device,drive=%s,serial=%s", node, d.serial))
	}
	for i, t := range h.taps {
		id := "net" + strconv.Itoa(i)
		if t.link == "" {
			add("-netdev", fmt.Sprintf("hubport,id=%s,hubid=%d", id, i))
		} else {
			add("-netdev", fmt.Sprintf("tap,id=%s,fd=%s,vhost=off", id, open(vmmapi.File{Kind: vmmapi.FileTap, Name: t.link})))
		}
		add("-device", fmt.Sprintf("virtio-net-device,netdev=%s,mac=%s", id, t.mac))
	}
	for i, s := range h.shares {
		id := "share" + strconv.Itoa(i)
		add("-chardev", "socket,id="+id+",fd="+open(vmmapi.File{Kind: vmmapi.FileShare, Name: s}))
		add("-device", fmt.Sprintf("vhost-user-fs-device,chardev=%s,tag=%s,queue-size=1024", id, s))
	}
	add("-device", "virtio-rng-device", "-device", "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on")
	return args, files
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// spareMAC is the address of an interface that nothing is connected to yet:
// locally administered, made of the instance's id.
func spareMAC(id string, n int) string {
	h := strings.ToLower(id + "0000000000")
	return fmt.Sprintf("06:%s:%s:%s:%s:%02x", h[0:2], h[2:4], h[4:6], h[6:8], n)
}
