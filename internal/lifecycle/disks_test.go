package lifecycle

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// fakeMachines is the driver with what only one of virtual machines has.
type fakeMachines struct{ fakeDriver }

func (fakeMachines) Isolation() model.Isolation { return model.IsolationVM }
func (fakeMachines) RootAsDisk() bool           { return true }

// List leaves all instances to the other driver.
func (fakeMachines) List(context.Context) ([]model.ID, error) { return nil, nil }

func (f fakeMachines) DiskFiles(_ context.Context, disk, name string) (driver.Files, error) {
	return &fakeDiskFiles{hostView: hostView{fakeArchives{f.w}, Root{Dir: disk, Name: name}}}, nil
}

type fakeDiskFiles struct{ hostView }

func (*fakeDiskFiles) Changes(context.Context) ([]container.FilesystemChange, error) { return nil, nil }
func (*fakeDiskFiles) Layer(context.Context) (io.ReadCloser, error)                  { return nil, nil }
func (*fakeDiskFiles) Close() error                                                  { return nil }

// A volume that is a disk is one machine's at a time, from its start to its
// end, also across a daemon; a container never gets it.
func TestDisks(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	_, err := e.Create(bg, model.CreateRequest{Name: "no", Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{Binds: []string{"disk1:/d"}}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "--isolation vm") {
		t.Errorf("a container with a disk: %v", err)
	}
	vm := container.Isolation(model.IsolationVM)
	a := create(t, e, "a", &container.HostConfig{Isolation: vm, Binds: []string{"disk1:/d", "plain:/p"}})
	b := create(t, e, "b", &container.HostConfig{Isolation: vm, Binds: []string{"disk1:/d"}})
	if st, err := e.ArchiveStat(bg, a, "/d/x"); err != nil || st.Name != "/volumes/disk1/disk:/x" {
		t.Errorf("a file on the disk of one that does not run: %+v %v", st, err)
	}
	if err := e.Start(bg, a); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, b); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), model.ID(a).Short()) {
		t.Errorf("a second machine: %v", err)
	}
	if _, err := e.ArchiveStat(bg, b, "/d/x"); !errdefs.IsConflict(err) {
		t.Errorf("a look into a disk that is in use: %v", err)
	}
	e.Close()
	w.disks = map[string]model.ID{} // what a new daemon's room knows
	e = w.engine()
	if err := e.Recover(bg); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, b); !errdefs.IsConflict(err) {
		t.Errorf("a second machine after a restart of the daemon: %v", err)
	}
	w.instance(a).end(0)
	wait(t, "the end", func() bool { return phase(e, a) == container.StateExited })
	if err := e.Start(bg, b); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	for _, id := range []string{a, b} {
		if err := e.Remove(bg, id, model.RemoveRequest{Force: true}); err != nil {
			t.Error(err)
		}
	}
	if len(w.disks) != 0 {
		t.Errorf("disks are held: %v", w.disks)
	}
}
