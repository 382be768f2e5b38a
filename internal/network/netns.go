package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// netns is an open network namespace.
type netns struct{ f *os.File }

func openNetns(path string) (*netns, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &netns{f}, nil
}

func (n *netns) close() error { return n.f.Close() }

// do runs f with the calling thread inside the namespace. f must be short and
// must not start goroutines. If the thread cannot be brought back it is never
// used again: the goroutine that runs f ends with it.
func (n *netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		self, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		defer unix.Close(self)
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		if back := unix.Setns(self, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enter opens a netlink socket inside and runs inside (may be nil) there.
func (n *netns) enter(inside func(c *rtnl) error) (*rtnl, error) {
	var c *rtnl
	err := n.do(func() (err error) {
		if c, err = openRTNL(); err != nil {
			return err
		}
		if inside != nil {
			return inside(c)
		}
		return nil
	})
	if err != nil && c != nil {
		_ = c.close()
		return nil, err
	}
	return c, err
}

// writeSysctl sets a sysctl of the calling thread's network namespace.
// Names are sysctl(8)'s; a slash stands for a dot inside an interface's name.
func writeSysctl(name, value string) error {
	p := sysctlPath(name)
	if !strings.HasPrefix(p, "/proc/sys/net/") {
		return model.Refuse(errdefs.ErrInvalidArgument, "sysctl %s is not in a network namespace", name)
	}
	if err := os.WriteFile(p, []byte(value), 0); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return model.Refuse(errdefs.ErrInvalidArgument, "sysctl %s: this kernel or namespace has none of that name", name)
		}
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// sysctlPath follows sysctl(8): whichever of "." and "/" comes first in the
// name separates its parts, the other stands for itself swapped.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return filepath.Join("/proc/sys", filepath.Clean("/"+name))
}
