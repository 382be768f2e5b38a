package record

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func sample(id string, n int) model.Container {
	return model.Container{
		ID: model.ID(id), Name: "c-" + id, Created: time.Unix(int64(n), 0).UTC(),
		Config: &container.Config{Image: "busybox", Env: []string{"A=b"}}, HostConfig: &container.HostConfig{},
		State: model.State{Phase: container.StateCreated},
	}
}

func TestRoundTrip(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	want := []model.Container{sample("aa", 1), sample("bb", 2)}
	for i := len(want) - 1; i >= 0; i-- {
		if err := s.PutContainer(ctx, want[i], false); err != nil {
			t.Fatal(err)
		}
	}
	gone := sample("cc", 3)
	if err := s.PutContainer(ctx, gone, true); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteContainer(ctx, gone.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteContainer(ctx, "never-there"); err != nil {
		t.Fatal(err)
	}
	type thing struct{ A int }
	if err := s.Table("things").Put(ctx, "x", thing{7}, false); err != nil {
		t.Fatal(err)
	}
	s.Close()

	s = open(t, dir)
	got, err := s.Containers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error("containers (-want +got):\n", d)
	}
	var th thing
	if err := s.Table("things").Get("x", &th); err != nil || th.A != 7 {
		t.Errorf("table: %+v, %v", th, err)
	}
	if err := s.Table("things").Get("y", &th); !errdefs.IsNotFound(err) {
		t.Errorf("Get of nothing: %v", err)
	}
	if len(s.Damage()) != 0 {
		t.Errorf("damage: %q", s.Damage())
	}
}

// What a verb costs: the number of times the disk is waited for.
func TestSyncs(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	for _, c := range []struct {
		name string
		do   func() error
		want int64
	}{
		{"put", func() error { return s.PutContainer(ctx, sample("a", 1), false) }, 0},
		{"put durable", func() error { return s.PutContainer(ctx, sample("a", 1), true) }, 1},
		{"delete", func() error { return s.DeleteContainer(ctx, "a") }, 0},
		{"publish", func() error { s.Publish("container", "start", "a", nil); return nil }, 0},
	} {
		before := s.Syncs()
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if got := s.Syncs() - before; got != c.want {
			t.Errorf("%s: %d syncs, want %d", c.name, got, c.want)
		}
	}
}

func TestDurableTogether(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	before := s.Syncs()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if err := s.PutContainer(ctx, sample(fmt.Sprint("id", i), i), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.Syncs() - before; n > 64 {
		t.Errorf("64 durable writes cost %d syncs", n)
	}
}

// A record file cut anywhere opens, and shows a state that was once true.
func TestTorn(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	for i := range 5 {
		if err := s.Table("n").Put(ctx, "k", i, false); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	whole, err := os.ReadFile(filepath.Join(dir, "record.log"))
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for cut := len(fileHeader); cut <= len(whole); cut++ {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "record.log"), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := -1
		if err := s.Table("n").Get("k", &n); err != nil && !errdefs.IsNotFound(err) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if n < last || n > last+1 {
			t.Fatalf("cut at %d: %d after %d", cut, n, last)
		}
		last = n
		// It can be written and read again.
		if err := s.Table("n").Put(ctx, "more", true, false); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		s.Close()
		s = open(t, dir)
		if len(s.Damage()) != 0 {
			t.Fatalf("cut at %d: damage is not healed: %q", cut, s.Damage())
		}
		s.Close()
	}
	if last != 4 {
		t.Errorf("whole file shows %d", last)
	}
}

// Any flipped byte costs at most what it lies in; the file is kept aside.
func TestDamaged(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	for _, k := range []string{"a", "b", "c"} {
		if err := s.Table("t").Put(ctx, k, k, false); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	whole, _ := os.ReadFile(filepath.Join(dir, "record.log"))
	for at := range whole {
		dir := t.TempDir()
		b := append([]byte(nil), whole...)
		b[at] ^= 0x55
		if err := os.WriteFile(filepath.Join(dir, "record.log"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if n := len(s.Table("t").All()); n < 2 {
			t.Errorf("byte %d: %d of 3 objects left", at, n)
		}
		if len(s.Damage()) != 1 {
			t.Errorf("byte %d: damage is not told: %q", at, s.Damage())
		}
		s.Close()
		again, err := Open(dir)
		if err != nil || len(again.Damage()) != 0 {
			t.Errorf("byte %d: opened again: %v, %q", at, err, again.Damage())
		}
		again.Close()
	}
}

func TestGarbage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "record.log"), []byte("not ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if len(s.Damage()) != 1 {
		t.Errorf("damage: %q", s.Damage())
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "record.log.damaged-*")); len(kept) != 1 {
		t.Errorf("kept aside: %q", kept)
	}
}

// Packing keeps what is true, also what is written meanwhile.
func TestPack(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	big := make([]byte, 4096)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 400 {
				if err := s.Table("t").Put(ctx, fmt.Sprint(w), map[string]any{"n": i, "b": big}, i%100 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// A pack may be under way, and what was written meanwhile is for the next
	// one, which a write begins.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		packing := s.packing
		s.mu.Unlock()
		if packing {
			continue
		}
		if st, err := os.Stat(filepath.Join(dir, "record.log")); err != nil || st.Size() <= 3<<20 {
			break
		}
		if err := s.Table("t").Put(ctx, "more", 1, false); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	st, err := os.Stat(filepath.Join(dir, "record.log"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 3<<20 {
		t.Errorf("the log has %d bytes for 4 objects of 6 KB", st.Size())
	}
	s = open(t, dir)
	for w := range 4 {
		var v struct{ N int }
		if err := s.Table("t").Get(fmt.Sprint(w), &v); err != nil || v.N != 399 {
			t.Errorf("%d: %+v, %v", w, v, err)
		}
	}
}

// A full disk is an error, not damage: the old state stays, and the next
// write succeeds when there is room.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs: run as root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v: %s", err, out)
	}
	defer exec.Command("umount", dir).Run()
	ctx := context.Background()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	big := make([]byte, 30_000)
	stored := 0
	for i := range 20 {
		err := s.Table("t").Put(ctx, fmt.Sprint(i), big, true)
		if err != nil {
			if !errdefs.IsUnavailable(err) {
				t.Errorf("kind: %v", err)
			}
			break
		}
		stored++
	}
	if stored == 20 {
		t.Fatal("the disk never got full")
	}
	if n := len(s.Table("t").All()); n != stored {
		t.Errorf("%d objects in memory, %d were acknowledged", n, stored)
	}
	if err := s.Table("t").Put(ctx, "small", 1, true); err != nil {
		t.Errorf("a small write afterwards: %v", err)
	}
	s.Close()
	s, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := len(s.Table("t").All()); n != stored+1 {
		t.Errorf("%d objects after reopening, want %d", n, stored+1)
	}
}

func TestUnknownFormIsKept(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	if err := s.Table(containersTable).Put(ctx, "odd", json.RawMessage(`{"id": 7}`), false); err != nil {
		t.Fatal(err)
	}
	got, err := s.Containers(ctx)
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if len(s.Table(containersTable).All()) != 1 {
		t.Error("an unreadable record was dropped")
	}
}

func FuzzOpen(f *testing.F) {
	frame, _ := encode(entry{"t", "k", json.RawMessage("1")})
	f.Add(append([]byte(fileHeader), frame...))
	f.Add([]byte(fileHeader))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "record.log"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		n := len(s.Table("t").All())
		s.Close()
		if s, err = Open(dir); err != nil || len(s.Table("t").All()) != n {
			t.Fatalf("opened again: %v", err)
		}
		s.Close()
	})
}

func BenchmarkPut(b *testing.B) {
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprintf("durable=%v", durable), func(b *testing.B) {
			s, err := Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			c := sample("aa", 1)
			for b.Loop() {
				if err := s.PutContainer(context.Background(), c, durable); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPutAmong1000 rewrites one of a thousand records of three KB, as a
// busy daemon does; packing is part of it.
func BenchmarkPutAmong1000(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	v := json.RawMessage(`"` + strings.Repeat("x", 3000) + `"`)
	ctx, i := context.Background(), 0
	put := func() {
		if err := s.Table("t").Put(ctx, fmt.Sprint("key", i%1000), v, false); err != nil {
			b.Fatal(err)
		}
		i++
	}
	for range 1000 {
		put()
	}
	for b.Loop() {
		put()
	}
}
