package volume

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// fakeDisks stands for the helper machine: a disk's files are one text.
type fakeDisks struct {
	text  map[string]string
	ended []string
}

func (f *fakeDisks) Tree(_ context.Context, disk string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.text[disk])), nil
}

func (f *fakeDisks) Fill(_ context.Context, disk string, _ model.PutOptions, tar io.Reader) error {
	b, err := io.ReadAll(tar)
	f.text[disk] = string(b)
	return err
}

func (f *fakeDisks) End(_ context.Context, disk string) error {
	f.ended = append(f.ended, disk)
	return nil
}

func blockRoom(t *testing.T) (*Room, *fakeDisks) {
	t.Helper()
	r, err := Open(Options{Dir: t.TempDir(), Archives: noArchives{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	d := &fakeDisks{text: map[string]string{}}
	r.SetDisks(d)
	return r, d
}

type noArchives struct{ Archives }

var disk32 = map[string]string{"type": "block", "size": "32m"}

func TestBlockOptions(t *testing.T) {
	for _, c := range []struct {
		opts map[string]string
		want string
	}{
		{disk32, ""},
		{map[string]string{"type": "block"}, "size"},
		{map[string]string{"type": "block", "size": "1m"}, "at least 16m"},
		{map[string]string{"type": "block", "size": "1g", "device": "/dev/sda"}, "device"},
		{map[string]string{"type": "block", "size": "1g", "o": "noatime"}, "size alone"},
	} {
		err := checkOptions(c.opts)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.opts, err, c.want)
		}
	}
}

// One machine at a time, and copies keep machines out as machines keep copies.
func TestBlockIsExclusive(t *testing.T) {
	r, d := blockRoom(t)
	ctx := t.Context()
	if _, err := r.Create(ctx, volume.CreateRequest{Name: "data", DriverOpts: disk32}); err != nil {
		t.Fatal(err)
	}
	m := model.Mount{Type: "volume", Name: "data", Destination: "/d", Subpath: "not/there"}
	for _, id := range []model.ID{"aaaaaaaaaaaa", "bbbbbbbbbbbb"} {
		if _, err := r.Use(ctx, id, m); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	file, err := r.Disk(ctx, "aaaaaaaaaaaa", m)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Size() != 32<<20 {
		t.Fatalf("the disk is %v, %v", st, err)
	}
	again, err := r.Disk(ctx, "aaaaaaaaaaaa", m)
	if err != nil || again != file {
		t.Errorf("again: %q %v", again, err)
	}
	if _, err := r.Disk(ctx, "bbbbbbbbbbbb", m); !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "aaaaaaaaaaaa") {
		t.Errorf("a second machine: %v", err)
	}
	for what, f := range map[string]func() error{
		"clone":  func() error { _, err := r.Clone(ctx, model.VolumeClone{Source: "data", Name: "two"}, nil); return err },
		"export": func() error { _, err := r.Export(ctx, "data", ""); return err },
		"snapshot": func() error {
			_, err := r.Snapshot(ctx, "data", "snap", nil, nil)
			return err
		},
	} {
		if err := f(); !errors.Is(err, errdefs.ErrConflict) {
			t.Errorf("%s while a machine has it: %v", what, err)
		}
	}
	r.GiveDisks("aaaaaaaaaaaa")
	// A machine that an earlier daemon started has the file's lock.
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Clone(ctx, model.VolumeClone{Source: "data", Name: "two"}, nil); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("clone while QEMU has its lock: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Clone(ctx, model.VolumeClone{Source: "data", Name: "two", Options: map[string]string{"size": "64m"}}, nil); err != nil {
		t.Fatal(err)
	}
	if len(d.ended) == 0 {
		t.Error("the helper was not told to let go before the copy")
	}
	two, err := r.Disk(ctx, "cccccccccccc", model.Mount{Type: "volume", Name: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(two); err != nil || st.Size() != 64<<20 {
		t.Errorf("the clone is %v %v", st, err)
	}
	u, err := r.Usage(ctx, "two")
	if err != nil || u.UsageData.Size <= 0 || u.UsageData.Size > 8<<20 {
		t.Errorf("usage %+v %v", u.UsageData, err)
	}
}

func TestBlockExportImport(t *testing.T) {
	r, d := blockRoom(t)
	ctx := t.Context()
	v, err := r.Import(ctx, model.VolumeImport{Name: "in", Options: disk32}, strings.NewReader("files"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Options["type"] != "block" || len(d.ended) == 0 {
		t.Errorf("%+v, ended %v", v, d.ended)
	}
	file, done, err := r.LookInto(ctx, "in")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Disk(ctx, "aaaaaaaaaaaa", model.Mount{Type: "volume", Name: "in"}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("a machine while files are copied: %v", err)
	}
	if err := r.Remove(ctx, "in", false); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("removal while files are copied: %v", err)
	}
	done()
	done()
	d.text[file] = "out"
	in, err := r.Export(ctx, "in", "")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(in)
	if err := in.Close(); err != nil || string(b) != "out" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := r.Import(ctx, model.VolumeImport{Name: "in"}, strings.NewReader("more"), nil); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("import into a used disk: %v", err)
	}
	r.SetDisks(nil)
	if _, err := r.Export(ctx, "in", ""); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("without machines: %v", err)
	}
	if err := r.Remove(ctx, "in", false); err != nil {
		t.Error(err)
	}
	trash, err := r.Trashed(ctx)
	if err != nil || len(trash) != 1 {
		t.Fatalf("%v %v", trash, err)
	}
	if _, err := r.RestoreTrashed(ctx, trash[0].ID, ""); err != nil {
		t.Error(err)
	}
	if !r.IsDisk("in") {
		t.Error("what came back is no disk")
	}
}
