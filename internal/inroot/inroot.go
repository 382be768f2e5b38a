// Package inroot opens directories inside a root that somebody else fills: an
// image's, as the host sees it and as the agent in a machine does. It owns
// nothing. Nothing that it opens is outside of the root, whatever links are in
// it and whoever exchanges them meanwhile.
package inroot

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Open opens the directory p of root for reading; links are followed as if
// root were /. The descriptor is the caller's.
func Open(root, p string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, "./"+strings.TrimLeft(p, "/"), how)
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}
