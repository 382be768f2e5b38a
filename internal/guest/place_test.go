package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// The tests run the agent in a plain process with namespaces of its own, so
// that it may mount and be process 1 as in a machine.
const insideEnv = "WHARF_GUEST_TEST_INSIDE"

func TestMain(m *testing.M) {
	runtime.Main()
	if os.Getuid() != 0 {
		fmt.Println("tests of the agent need root: run as root (go test in a root shell)")
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(enter())
	}
	if err := settle(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this test again in new namespaces.
func enter() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Unshareflags: unix.CLONE_NEWNS,
	}
	err := cmd.Run()
	var x *exec.ExitError
	if errors.As(err, &x) {
		return x.ExitCode()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func settle() error {
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		unix.Mount("/etc/passwd", "/etc/machine-id", "", unix.MS_BIND, ""), // a write must not reach the host's
		unix.Mount("", "/etc/machine-id", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		loopbackUp(),
	)
}

// plain is a machine that is none.
type plain struct {
	time        int64
	entropy     int
	lateDevices int
	off         chan struct{}
	once        sync.Once
}

func (m *plain) disk(serial string) (string, error) {
	return "", failed(guestapi.KindNotFound, "no disk %s", serial)
}

func (m *plain) late(n int) error { m.lateDevices = n; return nil }

func (m *plain) powerOff() { m.once.Do(func() { close(m.off) }) }

func (m *plain) setTime(ns int64) error { m.time = ns; return nil }

func (m *plain) addEntropy(p []byte) error { m.entropy = len(p); return nil }

// place is an agent in this process, and its host.
type place struct {
	host
	m     *plain
	a     *Agent
	conn  net.Conn // the host's end
	layer string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	m := &plain{off: make(chan struct{})}
	p := &place{m: m}
	p.t, p.layout = t, testCgroup(t)
	p.a = newAgent("test", m, p.layout)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := fileConn(t, fds[1])
	p.conn = &detached{fileConn(t, fds[0])}
	done := make(chan struct{})
	go func() { defer close(done); _ = p.a.channel(&port{dev: theirs}) }()
	t.Cleanup(func() {
		_ = p.conn.(*detached).Conn.Close()
		_ = theirs.Close()
		<-done
		for unix.Unmount(guestapi.RootDir, 0) == nil {
		}
		_ = unix.Unmount(guestapi.LayersDir+"/0", unix.MNT_DETACH)
		_ = unix.Unmount(guestapi.WritableAt, unix.MNT_DETACH)
		_ = os.RemoveAll(guestapi.RunDir)
	})
	p.greet(p.conn)
	return p
}

func fileConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// testCgroup is a cgroup v2 tree of its own: without controllers where the
// host keeps them in v1, but it can be frozen.
func testCgroup(t *testing.T) cgroup.Layout {
	t.Helper()
	l := cgroup.Detect()
	if l.V2 == "" {
		return cgroup.Layout{}
	}
	dir := filepath.Join(l.V2, fmt.Sprintf("wharf-guest-test-%d", time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Logf("no cgroup: %v", err)
		return cgroup.Layout{}
	}
	t.Cleanup(func() {
		_ = cgroup.New(cgroup.Layout{V2: dir}, guestapi.CgroupPath).Remove()
		for _, d := range []string{filepath.Join(dir, "wharf"), dir} {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v", err)
			}
		}
	})
	return cgroup.Layout{V2: dir, V2Controllers: map[string]bool{}}
}

// boot tells the agent what it is: an instance of drivertest's layer.
func (p *place) boot() *place {
	p.t.Helper()
	p.layer = drivertest.Layer(p.t)
	for name, text := range map[string]string{"etc/gone": "x", "etc/kept": "x", "old/sub/file": "x", "old/other": "y"} {
		f := filepath.Join(p.layer, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(text), 0o644)); err != nil {
			p.t.Fatal(err)
		}
	}
	at := guestapi.LayersDir + "/0"
	if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(p.layer, at, "", unix.MS_BIND, "")); err != nil {
		p.t.Fatal(err)
	}
	f := fresh()
	f.MachineID = "" // the host's file
	p.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x", Fresh: f,
		Mounts: []guestapi.Mount{{Type: "tmpfs", Target: guestapi.WritableAt, Options: []string{"nodev", "size=16m"}, Dirs: []string{"upper", "work"}}},
		Files:  []guestapi.File{{Path: guestapi.EtcDir + "/hosts", Data: []byte("127.0.0.1 localhost\n")}},
	}})
	return p
}

func (p *place) run(args ...string) (*model.Bundle, net.Conn, *guestapi.Reader) {
	p.t.Helper()
	b := p.bundle(p.layer, args...)
	b.OpenStdin = true
	_, s, r, err := p.start(b)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = s.Close() })
	return b, s, r
}
