package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wharf/internal/driver"
	"wharf/internal/driver/drivertest"
	"wharf/internal/driver/held"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/image/erofs"
	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// bin has the programs, built once for all tests that boot machines.
var bin string

func TestMain(m *testing.M) {
	runtime.Main()
	if len(os.Args) == 2 && os.Args[1] == probeArg {
		os.Exit(probe())
	}
	code := func() int {
		dir, err := os.MkdirTemp("", "wharf-qemu-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		_ = os.Chmod(dir, 0o755) // mapped roots execute what is in it
		bin = dir
		return m.Run()
	}()
	os.Exit(code)
}

// parent is the cgroup of this test process's machines.
var parent = fmt.Sprintf("wharf-qemu-test-%d", os.Getpid())

func needMachines(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test boots virtual machines and needs root: run it as root (make test)")
	}
	if testing.Short() {
		t.Skip("this test boots virtual machines, which takes minutes under emulation")
	}
	if _, err := find("", qemuPlaces, ""); err != nil {
		t.Skip("no QEMU: apt-get install qemu-system-x86 qemu-system-common")
	}
	if _, err := boot.Find("", ""); err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "wharf-vmm")); err == nil {
		return
	}
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", bin+"/", "wharf/cmd/wharf-vmm", "wharf/cmd/wharf-guest")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// target makes a driver with a state of its own, and bundles with disks.
func target(t testing.TB) (drivertest.Target, func(t testing.TB, args ...string) *model.Bundle) {
	t.Helper()
	needMachines(t)
	root, err := os.MkdirTemp("", "wharf-qemu-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	maker := boot.New(boot.Options{Dir: filepath.Join(bin, "boot"), Agent: filepath.Join(bin, "wharf-guest")})
	open := func(t testing.TB) driver.Driver {
		t.Helper()
		d, err := New(Options{VMM: filepath.Join(bin, "wharf-vmm"), ExecRoot: root, CgroupParent: parent, Boot: maker, Memory: 256 << 20, Debug: true,
			IDs:   model.IDRange{Host: 900_000_000, Size: 65536},
			Accel: func(context.Context) (string, string, error) { return "tcg", "a test", nil }})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := &drivertest.Bundles{Layer: drivertest.Layer(t), Dir: root}
	image := filepath.Join(root, "layer.erofs")
	writeImage(t, m.Layer, image)
	bundle := func(t testing.TB, args ...string) *model.Bundle {
		b := m.New(t, args...)
		b.Rootfs.Disk, b.Rootfs.Writable = image, filepath.Join(root, string(b.ID), "disk")
		emptyDisk(t, b.Rootfs.Writable)
		return b
	}
	t.Cleanup(func() {
		if left := held.ListCgroups(parent); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		_ = cgroup.Open(parent).Remove() // the empty parent
	})
	return drivertest.Target{Driver: open(t), Again: open, Bundle: bundle, Many: 3, Slow: 20 * time.Second, Lacks: []string{"Pids"}}, bundle
}

func writeImage(t testing.TB, dir, at string) {
	t.Helper()
	f, err := os.Create(at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := erofs.Write(context.Background(), f, dir); err != nil {
		t.Fatal(err)
	}
}

func emptyDisk(t testing.TB, at string) {
	t.Helper()
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(at, 1<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/mkfs.ext4", "-q", "-F", at).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v %s: apt-get install e2fsprogs", err, out)
	}
}

func TestContract(t *testing.T) {
	g, _ := target(t)
	drivertest.Run(t, g)
}

// toEnd runs b to its end and returns its log.
func toEnd(t testing.TB, d *Driver, b *model.Bundle) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	i, err := d.Start(ctx, b, sb)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := i.Wait(ctx); err != nil || e.Code != 0 {
		t.Errorf("exit %+v %v", e, err)
	}
	if err := d.Release(ctx, b.ID); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(b.Log.Path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// A machine that is cloned is like one that booted; two clones differ in what
// no two machines may share.
func TestTemplate(t *testing.T) {
	g, bundle := target(t)
	d := g.Driver.(*Driver)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	run := func() string {
		b := bundle(t, "/bin/sh", "-c", "cat /proc/sys/kernel/random/boot_id; hostname; echo written > /file; cat /file")
		text := toEnd(t, d, b)
		if !strings.Contains(text, "written") || !strings.Contains(text, b.ID.Short()) {
			t.Errorf("log %q", text)
		}
		return text
	}
	run()
	has := func() bool {
		d.m.templates.mu.Lock()
		defer d.m.templates.mu.Unlock()
		return len(d.m.templates.byKey) == 1
	}
	for end := time.Now().Add(3 * time.Minute); !has(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no template was made")
		}
	}
	first, _, _ := strings.Cut(run(), "\\n")
	second, _, _ := strings.Cut(run(), "\\n")
	if first == second {
		t.Errorf("two clones have the boot id %s", first)
	}
	if !has() {
		t.Error("the clones did not come up and were started cold")
	}
}
