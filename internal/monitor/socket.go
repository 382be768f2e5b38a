package monitor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// listen makes a listening unix socket at name, relative to the working
// directory, that only root may connect to.
func listen(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// bind(2) takes the new file's mode from the socket's inode.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("listen "+name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// accept returns the next connection. Errors of one connection are skipped;
// an error means that the listener is closed.
func accept(l *os.File) (*os.File, error) {
	rc, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var fd int
		var aerr error
		err = rc.Read(func(s uintptr) bool {
			fd, _, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(aerr, unix.EAGAIN)
		})
		if err != nil {
			return nil, err
		}
		switch {
		case aerr == nil:
			return os.NewFile(uintptr(fd), "client"), nil
		case errors.Is(aerr, unix.ECONNABORTED), errors.Is(aerr, unix.EINTR):
		default:
			return nil, os.NewSyscallError("accept", aerr)
		}
	}
}

// polled makes an *os.File of fd whose reads and writes wait in the poller.
func polled(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
