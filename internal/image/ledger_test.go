package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"wharf/internal/model"
)

func openLedger(t *testing.T, path string) *ledger {
	t.Helper()
	o := bolt.Options{}
	if err := ledgerOptions(&o); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLedger(db, path, nil, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// churn makes commits that free and take pages.
func churn(t *testing.T, l *ledger, r *rand.Rand, commits int) {
	t.Helper()
	for range commits {
		err := l.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			for range 8 {
				k := fmt.Appendf(nil, "%04d", r.IntN(400))
				if r.IntN(3) == 0 {
					err = b.Delete(k)
				} else {
					err = b.Put(k, []byte(strings.Repeat(string(k), 1+r.IntN(300))))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func contents(t *testing.T, db *bolt.DB) string {
	t.Helper()
	var out strings.Builder
	err := db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return tx.Bucket([]byte("b")).ForEach(func(k, v []byte) error { fmt.Fprintf(&out, "%s=%s\n", k, v); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A power cut leaves of what was written since the last point any part, in any
// order. Each such file must lead back to the point exactly.
func TestLedgerPowerCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "db")
	l := openLedger(t, path)
	defer l.Close()
	l.pending.Store(true) // no point by the clock
	for round := range 12 {
		churn(t, l, r, 1+r.IntN(30))
		if err := l.settle(); err != nil {
			t.Fatal(err)
		}
		want := contents(t, l.db)
		before := read(t, path)
		churn(t, l, r, 1+r.IntN(60))
		after, side := read(t, path), read(t, path+pointSuffix)

		cut := filepath.Join(t.TempDir(), "cut")
		mixed := append([]byte{}, after...)
		for at := 0; at < len(before); at += 512 { // sectors
			if r.IntN(2) == 0 {
				copy(mixed[at:], before[at:at+512])
			}
		}
		write(t, cut, mixed)
		if round%2 == 1 { // the cut came while the next point was written
			s := int(l.side.count+1) % 2 * pointSlot
			for len(side) < s+pointLen {
				side = append(side, 0)
			}
			side[s+100] ^= 1
		}
		write(t, cut+pointSuffix, side)
		if back, err := toPoint(cut, bootID()); back || err != nil {
			t.Fatalf("the machine did not go down, yet it was led back: %v", err)
		}
		stamp(t, cut)
		if back, err := toPoint(cut, bootID()); !back || err != nil {
			t.Fatalf("not led back: %v", err)
		}
		c := openLedger(t, cut)
		if got := contents(t, c.db); got != want {
			t.Fatalf("round %d: not the state of the point", round)
		}
		churn(t, c, r, 20)
		contents(t, c.db)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(cut + pointSuffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("points of a closed database are still there: %v", err)
		}
	}
}

// A database that grows large waits for the disk at each commit, and a point
// by the clock covers what a crash of the daemon left.
func TestLedgerPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	path := filepath.Join(t.TempDir(), "db")
	l := openLedger(t, path)
	l.limit = 1
	churn(t, l, r, 3)
	if l.side != nil || l.held != nil || l.db.NoSync {
		t.Error("a large database does not wait for the disk")
	}
	if err := errors.Join(l.settle(), l.Close(), l.settle()); err != nil {
		t.Error(err)
	}
}

// A torn or foreign file of points is none.
func TestPoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l := openLedger(t, path)
	churn(t, l, rand.New(rand.NewPCG(5, 6)), 3)
	if err := l.settle(); err != nil {
		t.Fatal(err)
	}
	b := read(t, path+pointSuffix)
	p, _, err := lastPoint(path + pointSuffix)
	if err != nil || p == nil || p.boot != bootID() || p.count != l.side.count {
		t.Fatalf("%+v %v", p, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, b[:100], make([]byte, 2*pointSlot)} {
		write(t, path+pointSuffix, bad)
		if back, err := toPoint(path, "another"); back || err != nil {
			t.Errorf("%d bytes: %v %v", len(bad), back, err)
		}
	}
	write(t, path+pointSuffix, b)
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := toPoint(path, "another"); err == nil {
		t.Error("a database that was cut short is taken")
	}
}

// A copy of a running daemon's files has the database and the point of two
// moments: the database counts, the point only when that was copied in pieces.
func TestPointOfACopy(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	path := filepath.Join(t.TempDir(), "db")
	l := openLedger(t, path)
	defer l.Close()
	l.pending.Store(true)
	var dbs, sides [][]byte
	var states []string
	for range 4 {
		churn(t, l, r, 40)
		if err := l.settle(); err != nil {
			t.Fatal(err)
		}
		dbs, sides, states = append(dbs, read(t, path)), append(sides, read(t, path+pointSuffix)), append(states, contents(t, l.db))
	}
	for db := range 4 {
		for side := range 4 {
			got, err := openCopy(t, dbs[db], sides[side])
			if err != nil || got != states[db] {
				t.Errorf("database %d with point %d: not the database's state (%v)", db, side, err)
			}
		}
		torn := bytes.Clone(dbs[db])
		clear(torn[:metaHeadLen])
		clear(torn[l.side.pageSize:][:metaHeadLen])
		if got, err := openCopy(t, torn, sides[db]); err != nil || got != states[db] {
			t.Errorf("torn database %d: not the point's state (%v)", db, err)
		}
	}
}

// openCopy is what is read of a copy after the machine went down.
func openCopy(t *testing.T, db, side []byte) (string, error) {
	t.Helper()
	at := filepath.Join(t.TempDir(), "copy")
	write(t, at, db)
	write(t, at+pointSuffix, side)
	if back, err := toPoint(at, "another"); err != nil || !back {
		return "", fmt.Errorf("led back or a copy: %v: %w", back, err)
	}
	d, err := bolt.Open(at, 0o600, nil)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return contents(t, d), nil
}

// What a store was told for good survives a power cut; what was under way is
// gone without a trace.
func TestStoreAfterPowerCut(t *testing.T) {
	root, cut := t.TempDir(), filepath.Join(t.TempDir(), "cut")
	ts := open(t, root)
	ctx := ts.ctx(t.Context())
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	must(t, ts.ledger.settle())
	ts.ledger.pending.Store(true) // no point by the clock
	for i := range 20 {
		key := fmt.Sprint("under-way-", i)
		_, err := ts.snaps.Prepare(ctx, key, "")
		must(t, err)
		must(t, ts.snaps.Commit(ctx, key+"-done", key))
	}
	_, _, err := ts.ingest(ctx, "under-way", strings.NewReader("half a build"), 12, "")
	must(t, err)
	if out, err := exec.Command("cp", "-a", root, cut).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, name := range []string{"meta.db", "layers/metadata.db"} {
		stamp(t, filepath.Join(cut, name))
	}
	two := open(t, cut)
	if !two.cut {
		t.Error("the power cut was not noticed")
	}
	img, err := two.Resolve(t.Context(), "busybox:test", nil)
	must(t, err)
	must(t, two.Prepare(t.Context(), model.NewID(), img))
	if n := countEntries(t, cut, "layers/snapshots"); n != 3 {
		t.Errorf("%d layer directories, want 3", n)
	}
	found, err := two.fsckStores(two.ctx(t.Context()))
	if err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
}

// stamp makes the points of a file those of a database, in another run of the
// machine.
func stamp(t *testing.T, db string) {
	t.Helper()
	f, err := os.Open(db)
	must(t, err)
	defer f.Close()
	id, err := identify(f)
	must(t, err)
	side := read(t, db+pointSuffix)
	for at := 0; at+pointLen <= len(side); at += pointSlot {
		slot := side[at : at+pointLen]
		if parsePoint(slot) == nil {
			continue // torn
		}
		copy(slot[16:56], append([]byte("another boot"), make([]byte, 40)...))
		binary.LittleEndian.PutUint64(slot[192:], id.inode)
		binary.LittleEndian.PutUint64(slot[200:], id.birth)
		sum := sha256.Sum256(slot[:pointSum])
		copy(slot[pointSum:], sum[:])
	}
	write(t, db+pointSuffix, side)
}

func FuzzParsePoint(f *testing.F) {
	f.Add(make([]byte, pointLen))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) >= pointLen {
			parsePoint(b[:pointLen])
		}
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
