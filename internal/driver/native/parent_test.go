package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// pidsBase is the hierarchy that these tests look at.
func pidsBase(t *testing.T) string {
	t.Helper()
	l := cgroup.Detect()
	base := l.V1["pids"]
	if l.Unified() {
		base = l.V2
	}
	if base == "" {
		t.Skip("no pids controller and no cgroup v2 on this machine")
	}
	return base
}

// TestParentRemoved: the parent that a daemon made goes with it, one that was
// there stays.
func TestParentRemoved(t *testing.T) {
	g, m := target(t)
	base := pidsBase(t)
	opts := g.Driver.(*Driver).opts
	for _, before := range []bool{false, true} {
		opts.ExecRoot = t.TempDir()
		opts.CgroupParent = fmt.Sprintf("%s-%t", parent, before)
		dir := filepath.Join(base, opts.CgroupParent)
		if before {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		d, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		b := m.New(t, "/bin/true")
		b.Spec.Linux.CgroupsPath = "/" + opts.CgroupParent + "/" + string(b.ID)
		sb, err := d.Sandbox(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Start(t.Context(), b, sb); err != nil {
			t.Fatal(err)
		}
		if err := d.Release(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); (err == nil) != before {
			t.Errorf("there before: %t, now: %v", before, err)
		}
		if err := cgroup.Open(opts.CgroupParent).Remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestFsckCgroupParent: an empty group below a container's own parent is found
// and removed, and nothing else that is there.
func TestFsckCgroupParent(t *testing.T) {
	g, _ := target(t)
	base := pidsBase(t)
	own := parent + "-own"
	stray := strings.Repeat("d", 64)
	for _, name := range []string{stray, "somebody"} {
		if err := os.MkdirAll(filepath.Join(base, own, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := cgroup.Open(own).Remove(); err != nil {
			t.Error(err)
		}
	})
	d := g.Driver.(*Driver)
	records := []model.Container{{ID: model.ID(strings.Repeat("c", 64)),
		HostConfig: &container.HostConfig{Resources: container.Resources{CgroupParent: "/" + own}}}}
	found, err := d.Fsck(t.Context(), records)
	if err != nil || len(found) != 1 || found[0].Name != own+"/"+stray || string(found[0].ID) != stray {
		t.Fatalf("%+v %v", found, err)
	}
	if err := d.Repair(t.Context(), found[0]); err != nil {
		t.Error(err)
	}
	if found, err = d.Fsck(t.Context(), records); err != nil || len(found) != 0 {
		t.Errorf("after the repair: %+v %v", found, err)
	}
	if got := held.ListCgroups(own); len(got) != 1 || got[0] != "somebody" {
		t.Errorf("left: %v", got)
	}
}
