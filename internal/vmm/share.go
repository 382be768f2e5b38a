package vmm

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
	"wharf/internal/undo"
	"wharf/internal/vmm/vmmapi"
)

// startShare runs one virtiofsd and returns the socket to it for QEMU. The
// daemon takes one connection from a listening socket, so that one is made in
// the instance's directory, connected to, and removed.
func (m *machine) startShare(s *vmmapi.Share, u *undo.Stack) (*os.File, error) {
	name := "share." + s.Name
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	listener := os.NewFile(uintptr(l), name)
	defer listener.Close()
	_ = unix.Unlink(name)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: name}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	defer unix.Unlink(name)
	if err := unix.Listen(l, 1); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(c), name)
	if err := unix.Connect(c, &unix.SockaddrUnix{Name: name}); err != nil {
		_ = conn.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	go func() { m.words.follow(out); _ = out.Close() }()
	p, err := runtime.Create(&s.Prepared, runtime.Files{Stdout: in, Stderr: in, Extra: []*os.File{listener}})
	_ = in.Close()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("container of virtiofsd: %w", err)
	}
	if err := p.Start(); err != nil {
		_ = conn.Close()
		_, _ = p.Wait()
		_ = p.Close()
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	u.Push(func() error {
		_ = p.Signal(syscall.SIGKILL)
		_, err := p.Wait()
		return err
	})
	m.shares = append(m.shares, p)
	return conn, nil
}
