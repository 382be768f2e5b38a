package qemu

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/driver/qemu/boot"
	"wharf/internal/model"
	"wharf/internal/vmm/vmmapi"
)

// shareCaps are what a file server needs in its own user namespace, to give
// files the owners that the guest says. On disk they are the instance's ids:
// the directory is idmapped, as a container's bind is.
var shareCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_SETFCAP",
	"CAP_DAC_READ_SEARCH", "CAP_SYS_CHROOT", "CAP_SETPCAP"}

// shares describes a virtiofsd for each, in a container that sees nothing but
// the directory. cache=auto: containers and other machines change the directory
// as well. killpriv_v2: the guest leaves it to the server to take set-user-id and
// capabilities away from a file that is written to, and does not ask for them at
// each write.
func (m *machines) shares(b *model.Bundle, list []share, cgroup string) ([]vmmapi.Share, error) {
	if len(list) == 0 {
		return nil, nil
	}
	binary, err := Virtiofsd(m.o.Virtiofsd)
	if err != nil {
		return nil, err
	}
	var out []vmmapi.Share
	for _, s := range list {
		args := []string{binary, "--fd=" + strconv.Itoa(vmmapi.FirstFile), "-o", "source=/share", "-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr", "-o", "killpriv_v2", "--rlimit-nofile=0", "-f"} // the limit is the cage's
		opts := []string{"rbind", "rprivate", "nosuid", "nodev"}
		if s.readOnly {
			opts = append(opts, "ro")
		}
		c := cage{root: m.root, ids: m.ids(b), cgroup: cgroup, name: "virtiofsd", args: args, caps: shareCaps, files: openFiles(),
			binds: []specs.Mount{{Destination: path.Join("/share", s.file), Type: "bind", Source: s.source, Options: opts}}}
		if s.file != "" { // the share is a directory with just this file
			c.binds = slices.Insert(c.binds, 0, specs.Mount{Destination: "/share", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "size=64k"}})
		}
		p, err := c.prepare()
		if err != nil {
			return nil, fmt.Errorf("share %s: %w", s.source, err)
		}
		out = append(out, vmmapi.Share{Name: s.name, Prepared: *p})
	}
	return out, nil
}

// shareQueue is how many requests a share's queue takes.
const shareQueue = 1024

// shareArgs gives the machine its shares; a clone gets the devices later.
func (h *hardware) shareArgs(add func(...string), open func(vmmapi.File) string) {
	for i, s := range h.shares {
		id := "share" + strconv.Itoa(i)
		add("-chardev", "socket,id="+id+",fd="+open(vmmapi.File{Kind: vmmapi.FileShare, Name: s}))
		if h.mode != clone {
			add("-device", fmt.Sprintf("vhost-user-fs-device,chardev=%s,tag=%s,queue-size=%d", id, s, shareQueue))
		}
	}
	if h.mode == clone && len(h.shares) > 0 {
		add("-device", fmt.Sprintf("virtio-scsi-device,id=%s,bus=%s", vmmapi.Plugger, vmmapi.Slot(vmmapi.PluggerSlot)))
	}
}

// late are the shares of a clone: each is plugged into a slot, from the first
// one on that the template's kernel knows of.
func (h *hardware) late() []vmmapi.Late {
	var out []vmmapi.Late
	for i, s := range h.shares {
		device := fmt.Appendf(nil, `{"driver":"vhost-user-fs-device","id":"fs%d","chardev":"share%d","tag":"%s","queue-size":%d}`, i, i, s, shareQueue)
		out = append(out, vmmapi.Late{Slot: boot.LateSlot + i, Device: device})
	}
	return out
}

// roomForLate says whether all shares have slots that the template's kernel knows
// of and its devices leave free.
func (h *hardware) roomForLate() bool {
	free := slots - ownDevices - len(h.disks) - len(h.taps)
	return len(h.shares) <= min(free, boot.LateSlots)
}

// initrdFile is the initramfs on the host.
func (h *hardware) initrdFile() string {
	if h.mode == cold {
		return h.hostInitrd
	}
	return h.lateInitrd
}

// mostFiles is how many open files a share's server gets where the host lets
// us: it has one for each file that the guest knows of.
const mostFiles = 1 << 20

// openFiles is mostFiles, or less: a hard limit can be raised by those only
// who have CAP_SYS_RESOURCE. wharf-vmm sees to it that the guest forgets files
// before the limit is reached (internal/vmm/forget.go).
var openFiles = sync.OnceValue(func() uint64 {
	most := uint64(mostFiles)
	if text, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			most = min(most, n)
		}
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || now.Max >= most || hasCapability(unix.CAP_SYS_RESOURCE) {
		return most
	}
	return now.Max
})

func hasCapability(n int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[n/32].Effective&(1<<(n%32)) != 0
}
