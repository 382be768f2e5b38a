package network

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// procfs is a mount of procfs of the room's own, attached nowhere. Below a
// mount's /proc/sys/net the kernel keeps "ipv6" of every namespace that was
// looked at in one chain, and compares each for the next one: with 1,000
// namespaces that was a quarter of an attach. So the mount is replaced while
// it has seen few.
type procfs struct {
	mu   sync.Mutex
	root *os.File // guarded by mu; nil until the first use
	seen int      // guarded by mu: namespaces
}

const procfsNamespaces = 64

// open opens a file of the calling thread's namespaces. Where there can be no
// mount of our own (a daemon without CAP_SYS_ADMIN) it is the host's /proc.
func (p *procfs) open(name string, flags int) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root == nil || p.seen >= procfsNamespaces {
		p.renew()
	}
	p.seen++
	fd, err := unix.Openat(int(p.root.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), "/proc/"+name), nil
}

// renew replaces the mount. Call with mu held.
func (p *procfs) renew() {
	root, err := mountProc()
	if err != nil && p.root == nil {
		root, err = os.Open("/proc")
	}
	p.seen = 0
	if err != nil {
		return // the old one does
	}
	if old := p.root; old != nil {
		go func() { _ = old.Close() }() // waits for the kernel to take it apart
	}
	p.root = root
}

func mountProc() (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("procfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("procfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("procfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "procfs"), nil
}

func (p *procfs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root == nil {
		return nil
	}
	root := p.root
	p.root = nil
	return root.Close()
}
