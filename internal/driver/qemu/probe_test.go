package qemu

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// probeArg makes the test program a probe: what runs in a cage in the place of
// QEMU, and makes the calls that it must not.
const probeArg = "probe-the-cage"

// attempt is a call with arguments that the kernel refuses by another error
// than a filter does.
type attempt struct {
	name string
	nr   uintptr
	args [6]uintptr
}

const nobody = 1 << 22 // no process has it

var (
	minusOne = ^uintptr(0)
	attempts = []attempt{
		{"unshare of a user namespace", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"unshare of descriptors", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_FILES | 1}},
		{"clone of a user namespace", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS | unix.CLONE_THREAD}},
		{"clone of a process", unix.SYS_CLONE, [6]uintptr{unix.CLONE_SIGHAND}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{}},
		{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_ATTACH, nobody}},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{nobody, 0, 0, 0, 0, 1}},
		{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, [6]uintptr{nobody, 0, 0, 0, 0, 1}},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, [6]uintptr{nobody, 0xffff}},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [6]uintptr{minusOne, 0, 0xffff}},
		{"kcmp", unix.SYS_KCMP, [6]uintptr{nobody, nobody}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0xffff}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{}},
		{"mount", unix.SYS_MOUNT, [6]uintptr{1, 1, 1}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{minusOne, 0, 0xffffffff}},
		{"setns", unix.SYS_SETNS, [6]uintptr{minusOne}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0xffffff}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{minusOne}},
		{"modify_ldt", unix.SYS_MODIFY_LDT, [6]uintptr{0xff}},
		{"personality", unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}},
		{"socket of the file system", unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}},
		{"socket of the network", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}},
		{"socket for rules", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW}},
		{"connect", unix.SYS_CONNECT, [6]uintptr{minusOne}},
		{"bind", unix.SYS_BIND, [6]uintptr{minusOne}},
		{"shmget", unix.SYS_SHMGET, [6]uintptr{}},
		{"mq_open", unix.SYS_MQ_OPEN, [6]uintptr{}},
	}
	// attemptsIDs are those that a file server is allowed.
	attemptsIDs = []attempt{
		{"setresuid", unix.SYS_SETRESUID, [6]uintptr{minusOne, minusOne, minusOne}},
		{"setgroups", unix.SYS_SETGROUPS, [6]uintptr{0xffffffff}},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{}},
	}
	// needed is what both programs have to be able to do: no filter's error.
	needed = []attempt{
		{"a thread's own directory", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_FS}},
		{"KVM_RUN", unix.SYS_IOCTL, [6]uintptr{minusOne, 0xae80}},
		{"socketpair", unix.SYS_SOCKETPAIR, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}},
		{"accept4", unix.SYS_ACCEPT4, [6]uintptr{minusOne}},
		{"recvmsg", unix.SYS_RECVMSG, [6]uintptr{minusOne}},
		{"seccomp", unix.SYS_SECCOMP, [6]uintptr{0xffff}},
		{"fallocate", unix.SYS_FALLOCATE, [6]uintptr{minusOne}},
		{"mknodat", unix.SYS_MKNODAT, [6]uintptr{minusOne}},
		{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, [6]uintptr{minusOne}},
	}
)

// probe says what the filter lets through that it should not, and what it
// refuses that is needed.
func probe() int {
	refused := func(a attempt) (bool, syscall.Errno) {
		_, _, e := syscall.RawSyscall6(a.nr, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
		return e == unix.EPERM || e == unix.ENOSYS, e
	}
	never := attempts
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println(err)
	}
	if strings.Contains(string(status), "CapEff:\t0000000000000000") {
		never = slices.Concat(attempts, attemptsIDs)
	}
	for _, a := range never {
		if ok, e := refused(a); !ok {
			fmt.Printf("%s got through: %d\n", a.name, e)
		}
	}
	for _, a := range needed {
		if ok, e := refused(a); ok {
			fmt.Printf("%s is refused: %d\n", a.name, e)
		}
	}
	fmt.Println("probed")
	return 0
}
