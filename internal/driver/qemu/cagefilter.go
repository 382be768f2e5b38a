package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A cage's filter of system calls holds from before the program's first
// instruction, and stays around what the program then installs by itself. It is
// a container's default one for the cage's capabilities, without what neither a
// VMM nor a file server has a use for, so that it goes with every version of
// both: they get descriptors and start nothing.

// never are calls that a cage does not have, beside those that no container has.
var never = []string{
	// other processes
	"ptrace", "kcmp", "fork", "vfork", "execveat",
	// sockets, but those that it gets, and pairs of its own
	"socket", "socketcall", "bind", "listen", "connect",
	// files by other ways than their names
	"open_by_handle_at", "listmount", "statmount",
	// what attacks on the kernel are known to use, and these programs are not
	"ipc", "personality", "modify_ldt", "memfd_secret", "map_shadow_stack", "uretprobe", "remap_file_pages", "vmsplice",
	// those that filter allows with some flags only
	"clone", "unshare",
}

// neverBegin are the beginnings of further ones' names: other processes, System
// V's and POSIX' queues and memory.
var neverBegin = []string{"process_", "pidfd_", "fanotify_", "msg", "sem", "shm", "mq_"}

// setIDs are the calls that a cage without CAP_SETUID has no use for.
var setIDs = []string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid", "capset", "chroot"}

// newNamespaces are clone(2)'s flags that make a namespace.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filter makes the cage's filter.
func (c *cage) filter(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("filter of system calls: %w", err)
	}
	p.Architectures = nil // the program's own: no calls of 32 bits
	for i := range p.Syscalls {
		if r := &p.Syscalls[i]; r.Action == specs.ActAllow {
			r.Names = slices.DeleteFunc(slices.Clone(r.Names), c.isNever)
		}
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(r specs.LinuxSyscall) bool { return len(r.Names) == 0 })
	p.Syscalls = append(p.Syscalls,
		// threads
		specs.LinuxSyscall{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
			{Index: 0, Value: newNamespaces | unix.CLONE_THREAD, ValueTwo: unix.CLONE_THREAD, Op: specs.OpMaskedEqual}}},
		// a thread's own working directory, which virtiofsd has
		specs.LinuxSyscall{Names: []string{"unshare"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
			{Index: 0, Value: unix.CLONE_FS, Op: specs.OpEqualTo}}})
	return p, nil
}

// isNever says whether the cage does without a call.
func (c *cage) isNever(name string) bool {
	if name = strings.TrimSuffix(name, "32"); slices.Contains(setIDs, name) {
		return !slices.Contains(c.caps, "CAP_SETUID")
	}
	return slices.Contains(never, name) || slices.ContainsFunc(neverBegin, func(n string) bool { return strings.HasPrefix(name, n) })
}
