package native

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"wharf/internal/driver"
	"wharf/internal/driver/drivertest"
	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// built is the monitor, built once for all tests.
var built string

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	if os.Getenv(earlyEnv) != "" {
		os.Exit(earlyChild())
	}
	if built = os.Getenv("WHARF_TEST_MONITOR"); built != "" { // make vmtest has no Go where it runs
		os.Exit(m.Run())
	}
	code := func() int {
		dir, err := os.MkdirTemp("", "wharf-native-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		// The mapped root of a container executes it.
		_ = os.Chmod(dir, 0o755)
		built = filepath.Join(dir, "wharf-monitor")
		c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", built, "wharf/cmd/wharf-monitor")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			println(string(out))
			return 1
		}
		return m.Run()
	}()
	os.Exit(code)
}

// parent is the cgroup of this test process's containers.
var parent = fmt.Sprintf("wharf-native-test-%d", os.Getpid())

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test makes containers and needs root: run it as root (make test)")
	}
}

// patience is more than anything takes that has to happen.
const patience = time.Minute

// target makes a driver with a state of its own.
func target(t testing.TB) (drivertest.Target, *drivertest.Bundles) {
	t.Helper()
	needRoot(t)
	root, err := os.MkdirTemp("", "wharf-native-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	open := func(t testing.TB) driver.Driver {
		t.Helper()
		d, err := New(Options{Monitor: built, ExecRoot: root, CgroupParent: parent})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := &drivertest.Bundles{Layer: drivertest.Layer(t), Dir: root}
	t.Cleanup(func() {
		if left := held.ListCgroups(parent); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		_ = cgroup.Open(parent).Remove() // the empty parent
	})
	return drivertest.Target{Driver: open(t), Again: open,
		Bundle: func(t testing.TB, args ...string) *model.Bundle { return m.New(t, args...) }}, m
}

func TestContract(t *testing.T) {
	g, _ := target(t)
	drivertest.Run(t, g)
}

func BenchmarkNative(b *testing.B) {
	for _, spares := range []int{0, 1} {
		b.Run(fmt.Sprintf("spares=%d", spares), func(b *testing.B) {
			g, _ := target(b)
			o := g.Driver.(*Driver).opts
			o.Spares = spares
			d, err := New(o)
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			g.Driver = d
			drivertest.Benchmarks(b, g)
		})
	}
}
