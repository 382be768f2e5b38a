package prepare

import (
	"strconv"
	"strings"
	"sync"
)

//go:generate go run gensyscalls.go

// x32Bit is set in the number of every system call of the x32 ABI.
const x32Bit = 0x40000000

// x32Own are the calls that x32 has numbers of its own for (the kernel's
// syscall_64.tbl); all others are amd64's with x32Bit.
var x32Own = strings.Fields("rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace " +
	"rt_sigpending rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid set_robust_list " +
	"get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg process_vm_readv " +
	"process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2 pwritev2")

const x32OwnFirst = 512

type syscallTable map[string]uint32

func parseTable(text string) syscallTable {
	t := syscallTable{}
	for len(text) > 0 {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		name, nr, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(nr, 10, 32); err == nil {
			t[name] = uint32(n)
		}
	}
	return t
}

var (
	tableAMD64 = sync.OnceValue(func() syscallTable { return parseTable(syscallsAMD64) })
	table386   = sync.OnceValue(func() syscallTable { return parseTable(syscalls386) })
	tableARM64 = sync.OnceValue(func() syscallTable { return parseTable(syscallsARM64) })
	tableARM   = sync.OnceValue(func() syscallTable {
		t := parseTable(syscallsARM)
		// ARM's private calls, which are not in the generated list.
		for i, n := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"} {
			t[n] = 0x0f0001 + uint32(i)
		}
		return t
	})
	tableX32 = sync.OnceValue(func() syscallTable {
		t := syscallTable{}
		for n, nr := range tableAMD64() {
			t[n] = nr | x32Bit
		}
		for i, n := range x32Own {
			t[n] = uint32(x32OwnFirst+i) | x32Bit
		}
		return t
	})
)
