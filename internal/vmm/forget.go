package vmm

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// A share's server has a descriptor for each file that the guest has cached.
// At its limit everything in the share fails with "too many open files", and
// the guest does not know why. So the guest is told to forget before that.

// How often a server is looked at: rarely, as long as it has room.
const (
	forgetSlow = 2 * time.Second
	forgetFast = 100 * time.Millisecond
)

// relieve keeps the servers of shares below their limits.
func (m *machine) relieve() {
	if len(m.shares) == 0 {
		return
	}
	next := forgetFast
	for {
		select {
		case <-m.down:
			return
		case <-time.After(next):
		}
		next = forgetSlow
		for _, s := range m.shares {
			have, limit := openFiles(s.Pid)
			if limit == 0 || have < limit/4 {
				continue
			}
			next = forgetFast
			if have >= limit/2 {
				_, _ = m.ask(askTime, guestapi.Request{Op: guestapi.OpForget})
				break
			}
		}
	}
}

// openFiles is how many descriptors a process has, and may have; 0 when it has
// ended.
func openFiles(pid int) (have, limit uint64) {
	var l unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l) != nil {
		return 0, 0
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	st, err := os.Stat(dir)
	if err != nil {
		return 0, 0
	}
	if st.Size() > 0 { // their number since Linux 6.2
		return uint64(st.Size()), l.Cur
	}
	d, err := os.Open(dir)
	if err != nil {
		return 0, 0
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	return uint64(len(names)), l.Cur
}
