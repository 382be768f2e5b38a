package guest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// vm is a real machine, without the driver: QEMU, emulated, one channel.
type vm struct {
	host
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	console strings.Builder
}

func (v *vm) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.console.Write(p)
}

// startVM boots the image that package boot makes, with the agent of this
// tree.
func startVM(t *testing.T, more ...string) *vm {
	t.Helper()
	if testing.Short() {
		t.Skip("boots an emulated machine; run without -short")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64: apt-get install qemu-system-x86")
	}
	if _, err := boot.Find("", ""); err != nil {
		t.Skipf("%v", err)
	}
	dir := t.TempDir()
	agent := os.Getenv("WHARF_TEST_AGENT") // where there is no Go (test/vmtest-kvm.sh)
	if agent == "" {
		agent = filepath.Join(dir, "wharf-guest")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "wharf/cmd/wharf-guest")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	img, err := boot.New(boot.Options{Dir: filepath.Join(dir, "boot"), Agent: agent}).Image(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{done: make(chan struct{})}
	v.t = t
	v.layout = cgroup.Layout{V2: guestapi.CgroupRoot, V2Controllers: map[string]bool{"cpuset": true, "cpu": true, "io": true, "memory": true, "pids": true}}
	sock := filepath.Join(dir, "agent.sock")
	accel, line := []string{"-accel", "tcg,thread=multi", "-cpu", "max"}, boot.Line{Debug: true, TSCKHz: boot.TSCKHz()}
	if os.Getenv("WHARF_TEST_ACCEL") == "kvm" {
		accel, line = []string{"-accel", "kvm", "-cpu", "host"}, boot.Line{}
	}
	v.cmd = exec.Command(qemu, slices.Concat(accel, []string{
		"-M", "microvm,rtc=on,pit=on,pic=on", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-m", "256M", "-smp", "1",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", img.Vmlinux, "-initrd", img.Initrd, "-append", boot.CommandLine(line),
		"-serial", "stdio",
		"-chardev", "socket,id=agent,path=" + sock + ",server=on,wait=off",
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=" + guestapi.PortName,
	}, more)...)
	v.cmd.Stdout, v.cmd.Stderr = v, v
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = v.cmd.Wait(); close(v.done) }()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		<-v.done
		if t.Failed() {
			t.Logf("console:\n%s", v.console.String())
		}
	})
	v.connect(sock)
	return v
}

func (v *vm) connect(sock string) {
	v.t.Helper()
	for end := time.Now().Add(patience() / 6); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", sock)
		if err == nil {
			v.greet(conn)
			return
		}
		if time.Now().After(end) {
			v.t.Fatal(err)
		}
	}
}

// ext4 makes a disk from a directory; "" is an empty one.
func ext4(t *testing.T, from, size string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	args := []string{"-q", "-F", "-b", "4096"}
	if from != "" {
		args = append(args, "-d", from)
	}
	out, err := exec.Command("mkfs.ext4", append(args, file, size)...).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return file
}

func drive(n, file, readOnly string) []string {
	return []string{"-drive", "if=none,id=" + n + ",format=raw,file=" + file + ",readonly=" + readOnly, "-device", "virtio-blk-device,drive=" + n + ",serial=" + n}
}

// bootVM boots a machine with a layer and a writable disk.
func bootVM(t *testing.T, layer string) *vm {
	t.Helper()
	rw := ext4(t, "", "32M")
	if err := os.Truncate(rw, 48<<20); err != nil { // for Grow
		t.Fatal(err)
	}
	more := append(drive("layer0", ext4(t, layer, "32M"), "on"), drive("rw", rw, "off")...)
	v := startVM(t, append(more, "-netdev", "user,id=n0,restrict=on,net=10.9.0.0/24", "-device", "virtio-net-device,netdev=n0,mac=02:42:0a:09:00:05")...)
	v.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x", Fresh: fresh(),
		Mounts: []guestapi.Mount{
			{Type: "ext4", Disk: "layer0", Target: guestapi.LayersDir + "/0", ReadOnly: true},
			{Type: "ext4", Disk: "rw", Target: guestapi.WritableAt, Grow: true, Dirs: []string{"upper", "work"}},
		},
		Files:      []guestapi.File{{Path: guestapi.EtcDir + "/hosts", Data: []byte("127.0.0.1 localhost\n")}},
		Interfaces: []guestapi.Interface{{MAC: "02:42:0a:09:00:05", Name: "eth0", MTU: 1400, Addresses: []string{"10.9.0.5/24"}, Routes: []guestapi.Route{{Gateway: "10.9.0.2"}}}},
		Sysctls:    map[string]string{"vm.max_map_count": "262144"},
	}})
	return v
}

// TestMachine is what a plain process cannot test: drivers, disks, network
// devices, limits, power.
func TestMachine(t *testing.T) {
	layer := drivertest.Layer(t)
	v := bootVM(t, layer)
	state, _, _ := v.ask(guestapi.Request{Op: guestapi.OpState})
	if s := state.State; !s.Booted || s.ID != "x" || s.CPUs != 1 || s.Kernel == "" {
		t.Errorf("state %+v", s)
	}
	b := v.bundle(layer, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
	_, s, r, err := v.start(b)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	look := "hostname; cat /etc/hosts /proc/sys/vm/max_map_count; busybox ip addr show eth0; busybox ip route; busybox mount; busybox df -k /"
	out, errs, e := v.exec(b, "sh", "-c", look)
	for _, want := range []string{"127.0.0.1 localhost", "262144", "mtu 1400", "inet 10.9.0.5/24 brd 10.9.0.255", "default via 10.9.0.2", "overlay on / "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s%s", want, out, errs)
		}
	}
	if e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	v.limits(b)
	v.network(b)
	stats, _, _ := v.ask(guestapi.Request{Op: guestapi.OpStats})
	if !strings.Contains(string(stats.Stats.Docker), `"usage"`) || stats.Stats.Networks == nil {
		t.Errorf("stats %s %v", stats.Stats.Docker, stats.Stats.Networks)
	}
	v.ask(guestapi.Request{Op: guestapi.OpTrim})
	v.ask(guestapi.Request{Op: guestapi.OpSignal, Signal: 15})
	if _, _, e := v.output(s, r); e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
	v.ask(guestapi.Request{Op: guestapi.OpPowerOff})
	select {
	case <-v.done:
	case <-time.After(patience() / 2):
		t.Error("the machine did not power off")
	}
}

// limits: memory is limited while the process runs, and what goes beyond is
// killed and counted.
func (v *vm) limits(b *model.Bundle) {
	v.t.Helper()
	v.ask(guestapi.Request{Op: guestapi.OpUpdate, Update: &guestapi.Update{Resources: []byte(`{"memory":{"limit":33554432},"pids":{"limit":64}}`)}})
	_, errs, e := v.exec(b, "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=50")
	if e.Code != 137 || !e.OOMKilled {
		v.t.Errorf("fifty megabytes in thirty-two: %+v %s", e, errs)
	}
	state, _, _ := v.ask(guestapi.Request{Op: guestapi.OpState})
	if state.State.OOMKills == 0 {
		v.t.Errorf("no kill is counted: %+v", state.State)
	}
	// What dd wrote is still there: nothing else could start below the limit.
	v.ask(guestapi.Request{Op: guestapi.OpUpdate, Update: &guestapi.Update{Resources: []byte(`{"memory":{"limit":-1}}`)}})
	if _, errs, e := v.exec(b, "busybox", "rm", "/dev/shm/x"); e.Code != 0 {
		v.t.Errorf("with the limit gone: %+v %s", e, errs)
	}
}

// network: an interface gets another address, then none.
func (v *vm) network(b *model.Bundle) {
	v.t.Helper()
	i := guestapi.Interface{MAC: "02:42:0a:09:00:05", Name: "eth3", Addresses: []string{"10.9.0.7/24", "fd00:9::7/64"}, Routes: []guestapi.Route{{Destination: "10.20.0.0/16", Gateway: "10.9.0.3"}}}
	v.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &i})
	out, _, _ := v.exec(b, "sh", "-c", "busybox ip addr show eth3; busybox ip route")
	for _, want := range []string{"10.9.0.7/24", "fd00:9::7/64", "10.20.0.0/16 via 10.9.0.3"} {
		if !strings.Contains(out, want) {
			v.t.Errorf("no %q in %s", want, out)
		}
	}
	if strings.Contains(out, "10.9.0.5") || strings.Contains(out, "default") {
		v.t.Errorf("something of before is there: %s", out)
	}
	v.ask(guestapi.Request{Op: guestapi.OpUnlink, Interface: &guestapi.Interface{MAC: i.MAC}})
	if out, _, e := v.exec(b, "busybox", "ip", "addr", "show", "eth3"); e.Code == 0 {
		v.t.Errorf("eth3 is still there: %s", out)
	}
	v.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &i})
}
