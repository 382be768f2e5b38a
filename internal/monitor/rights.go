package monitor

import (
	"errors"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// maxFiles is how many descriptors come with a Start at most.
const maxFiles = 64

// rights reads a socket and keeps the descriptors that come along
// (SCM_RIGHTS, unix(7)).
type rights struct {
	conn *os.File
	fds  []int
}

func (r *rights) Read(p []byte) (n int, err error) {
	rc, err := r.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	var oobn int
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(rerr, unix.EAGAIN)
	})
	if err == nil && rerr != nil {
		err = os.NewSyscallError("recvmsg", rerr)
	}
	if err != nil {
		return 0, err
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return 0, err
		}
		for i := range msgs {
			if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
				r.fds = append(r.fds, fds...)
			}
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// take gives the descriptors of a Start their places: the working directory
// and stderr are this process's, the namespaces are the container's.
func (r *rights) take(names []string) (f Files, err error) {
	if len(names) != len(r.fds) {
		return f, failed(monitorapi.KindInvalid, "the descriptors that came are not those that the start message names")
	}
	for i, name := range names {
		fd := r.fds[i]
		switch name {
		case monitorapi.FileDir:
			err = os.NewSyscallError("fchdir", errors.Join(unix.Fchdir(fd), unix.Close(fd)))
		case monitorapi.FileStderr:
			err = os.NewSyscallError("dup3", errors.Join(unix.Dup3(fd, 2, 0), unix.Close(fd)))
		case monitorapi.FileUser:
			f.User = os.NewFile(uintptr(fd), name)
		case monitorapi.FileNet:
			f.Net = os.NewFile(uintptr(fd), name)
		default:
			if strings.HasPrefix(name, monitorapi.FileMore) {
				if f.More == nil {
					f.More = map[string]*os.File{}
				}
				f.More[name] = os.NewFile(uintptr(fd), name)
				continue
			}
			err = failed(monitorapi.KindUnimplemented, "this monitor does not know the file "+name+" in a start message")
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// nameSelf shows the container's id in ps: a monitor that was started as a
// spare has a placeholder there. The argument is overwritten where the kernel
// reads it.
func nameSelf(id string) {
	if len(os.Args) != 2 || len(id) > len(os.Args[1]) {
		return
	}
	arg := unsafe.Slice(unsafe.StringData(os.Args[1]), len(os.Args[1]))
	n := copy(arg, id)
	for i := n; i < len(arg); i++ {
		arg[i] = ' '
	}
}
