package runtime

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/lean"
)

// sendListener hands a seccomp notify descriptor to the agent that waits at
// path, as the runtime spec's "Container Process State" says.
func sendListener(path, id, metadata string, pid int, fds []int) error {
	if len(fds) != 1 {
		return errors.New("seccomp listener did not arrive")
	}
	if path == "" {
		return errors.New("seccomp: notify without a listenerPath")
	}
	state := specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: metadata,
		State: specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating, Pid: pid},
	}
	data, err := lean.Marshal(state)
	if err != nil {
		return err
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("failed to connect with seccomp agent %s: %w", path, err)
	}
	if err := unix.Sendmsg(sock, data, unix.UnixRights(fds...), nil, 0); err != nil {
		return fmt.Errorf("seccomp listener %s: %w", path, err)
	}
	return nil
}
