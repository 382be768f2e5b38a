package vmm

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnNetwork runs f on a thread in a network namespace of its own.
func inOwnNetwork(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test makes network devices: run it as root (make test)")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f(t)
	}()
	<-done
}

// links are the names of this thread's network devices.
func links(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	entries, err := os.ReadDir("/proc/thread-self/net/dev_snmp6")
	if err != nil {
		t.Skip(err)
	}
	for _, e := range entries {
		out[e.Name()] = true
	}
	return out
}

// A tap that roams is out of sight, becomes another one with the same open file,
// and goes with it.
func TestRoamer(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		r, err := newRoamer()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.close()
		if got := links(t); got[r.name] {
			t.Errorf("the tap is still here: %v", got)
		}
		theirs, err := duplicate(r.tap) // QEMU's
		if err != nil {
			t.Error(err)
			return
		}
		defer theirs.Close()
		const header = 12 // as QEMU sets it
		if err := unix.IoctlSetPointerInt(int(theirs.Fd()), unix.TUNSETVNETHDRSZ, header); err != nil {
			t.Error(err)
		}
		// The network's own tap stays without anybody who has it open.
		its, name, err := openTap("test%d")
		if err == nil {
			err = unix.IoctlSetInt(int(its.Fd()), unix.TUNSETPERSIST, 1)
			_ = its.Close()
		}
		if err != nil {
			t.Error(err)
			return
		}
		if err := r.become(name); err != nil {
			t.Error(err)
			return
		}
		req, _ := unix.NewIfreq("")
		if err := unix.IoctlIfreq(int(theirs.Fd()), unix.TUNGETIFF, req); err != nil || req.Name() != name {
			t.Errorf("it has become %q %v", req.Name(), err)
		}
		if n, err := unix.IoctlGetInt(int(theirs.Fd()), unix.TUNGETVNETHDRSZ); err != nil || n != header {
			t.Errorf("header of %d bytes, %v", n, err)
		}
		if err := passing(int(r.tap.Fd())); err != nil {
			t.Error(err)
		}
		_ = theirs.Close()
		r.close()
		if links(t)[name] {
			t.Error("it stays when nobody has it open")
		}
		if err := r.nobody.Close(); err == nil {
			t.Error("the namespace is still open")
		}
	})
}
