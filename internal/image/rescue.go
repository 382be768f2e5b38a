package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// A disk may garble a database. Then both go aside, with the unpacked layers
// that only they can tell apart (running containers stand on them, by mounts
// that a rename does not touch), and new ones are filled from what is left:
// the blobs, whose digests say what they are, and a copy of the names. Layers
// are unpacked again when they are needed. Writable layers and what they stand
// on are no part of the databases.

// damagedPrefix starts the names of directories with what was set aside.
const damagedPrefix = "damaged-"

// namesFile is a copy of the table of names, for a rescue alone.
const namesFile = "names.json"

// namesLater is how long a changed name waits for its copy.
const namesLater = time.Second

// openOrRescue opens the databases, new ones if they cannot be read.
func (s *Store) openOrRescue(ctx context.Context, u *undo.Stack) error {
	why := s.lostDatabase()
	if why == nil {
		var own undo.Stack
		err := s.tryDatabases(ctx, &own)
		if err == nil {
			u.Push(own.Run)
			return nil
		}
		if !isDamage(err) {
			return errors.Join(err, own.Run())
		}
		why = err
		// What panicked holds its own locks: closing it could hang. It is
		// mapped and open until the daemon ends.
	}
	dir := s.path(damagedPrefix + time.Now().UTC().Format("20060102T150405.000"))
	if err := s.setAside(dir); err != nil {
		return fmt.Errorf("image store: %w; its databases cannot be read: %w", err, why)
	}
	s.log.ErrorContext(ctx, "the image store's databases cannot be read; they were set aside and are made again from the images' blobs", "err", why, "aside", dir)
	if err := s.openDatabases(ctx, u); err != nil {
		return err
	}
	s.rescued = true
	return nil
}

// databases are the two files, and what belongs to them.
func (s *Store) databases() []string { return []string{s.path("meta.db"), s.path("layers")} }

// lostDatabase reports a database that is not there or empty while there are
// blobs: bolt would take it for a new one, and the collector all blobs for
// garbage.
func (s *Store) lostDatabase() error {
	blobs, err := os.ReadDir(s.path("content", "blobs", "sha256"))
	if err != nil || len(blobs) == 0 {
		return nil
	}
	for _, name := range []string{s.path("meta.db"), s.path("layers", "metadata.db")} {
		fi, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
			return fmt.Errorf("%s is empty or gone", name)
		}
	}
	return nil
}

// damage is a database that cannot be read.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func isDamage(err error) bool {
	var d damage
	for _, e := range []error{berrors.ErrInvalid, berrors.ErrVersionMismatch, berrors.ErrChecksum, errBroken} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &d)
}

var errBroken = errors.New("file is not a whole database")

// tryDatabases opens the databases and reads all of them. bolt panics where
// pages make no sense, or reads where nothing is mapped.
func (s *Store) tryDatabases(ctx context.Context, u *undo.Stack) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damage{fmt.Errorf("%w: %v", errBroken, p)}
		}
	}()
	if err := s.openDatabases(ctx, u); err != nil {
		return err
	}
	for _, l := range []*ledger{s.ledger, s.ledger.below} {
		if l == nil {
			continue
		}
		if err := l.db.View(walkAll); err != nil {
			return damage{fmt.Errorf("%s: %w", l.path, err)}
		}
	}
	return nil
}

// walkAll touches every page that a table is made of.
func walkAll(tx *bolt.Tx) error {
	var walk func(b *bolt.Bucket, depth int) error
	walk = func(b *bolt.Bucket, depth int) error {
		if depth > 20 {
			return errBroken
		}
		return b.ForEach(func(k, v []byte) error {
			if v != nil {
				return nil
			}
			inner := b.Bucket(k)
			if inner == nil {
				return errBroken
			}
			return walk(inner, depth+1)
		})
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return walk(b, 0) })
}

// setAside moves the databases and the layers into dir.
func (s *Store) setAside(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range append(s.databases(), s.path("meta.db"+pointSuffix)) {
		err := os.Rename(name, filepath.Join(dir, filepath.Base(name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(s.path("meta.db"))
}

// refill records the blobs that are here in new databases, and their names.
func (s *Store) refill(ctx context.Context) error {
	ctx = s.ctx(ctx)
	ctx, done, err := s.lease(ctx, "rescue")
	if err != nil {
		return err
	}
	defer done()
	docs, sizes, err := s.documents(ctx)
	if err != nil {
		return err
	}
	below := map[digest.Digest]bool{}
	for d, doc := range docs {
		if err := s.register(ctx, d, sizes[d]); err != nil {
			return err
		}
		for _, c := range doc.children() {
			below[c.Digest] = true
			if size, ok := sizes[c.Digest]; ok {
				if err := s.register(ctx, c.Digest, size); err != nil {
					return err
				}
			}
		}
	}
	for d, doc := range docs {
		if err := s.refer(ctx, descOf(d, doc, sizes[d])); err != nil {
			s.log.WarnContext(ctx, "an image is not whole any more", "image", d, "err", err)
		}
	}
	return s.rename(ctx, docs, sizes, below)
}

// descOf describes a document that was found.
func descOf(d digest.Digest, doc document, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: doc.MediaType, Digest: d, Size: size}
}

// documents reads the indexes and manifests among the blobs; those that are
// not what their digest says are left out.
func (s *Store) documents(ctx context.Context) (map[digest.Digest]document, map[digest.Digest]int64, error) {
	docs, sizes := map[digest.Digest]document{}, map[digest.Digest]int64{}
	err := s.blobs.Walk(ctx, func(i content.Info) error {
		sizes[i.Digest] = i.Size
		if i.Size > maxManifest {
			return nil
		}
		b, err := readBlob(ctx, s.blobs, ocispec.Descriptor{Digest: i.Digest}, maxManifest)
		if err != nil || len(b) == 0 || b[0] != '{' || i.Digest.Algorithm().FromBytes(b) != i.Digest {
			return nil
		}
		desc := ocispec.Descriptor{MediaType: guessType(b), Digest: i.Digest, Size: i.Size}
		if !isDocument(desc.MediaType) {
			return nil
		}
		d, err := parseDocument(b, desc)
		if err != nil || len(d.children()) == 0 {
			return nil // a configuration has no media type either
		}
		d.MediaType = desc.MediaType
		docs[i.Digest] = d
		return nil
	})
	return docs, sizes, err
}

// register makes a file of the content store known.
func (s *Store) register(ctx context.Context, d digest.Digest, size int64) error {
	if _, err := s.cs.Info(ctx, d); err == nil {
		return nil
	}
	w, err := s.cs.Writer(ctx, content.WithRef("rescue-"+d.String()), content.WithDescriptor(ocispec.Descriptor{Digest: d, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Commit(ctx, size, d); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// rename gives the images their names again; one that nothing refers to and
// that has no name becomes an image without one.
func (s *Store) rename(ctx context.Context, docs map[digest.Digest]document, sizes map[digest.Digest]int64, below map[digest.Digest]bool) error {
	named := map[digest.Digest]bool{}
	for _, img := range s.copiedNames(ctx) {
		if _, ok := docs[img.Target.Digest]; !ok {
			s.log.WarnContext(ctx, "the image of a name is gone", "name", img.Name, "image", img.Target.Digest)
			continue
		}
		named[img.Target.Digest] = true
		if _, err := s.images.Create(ctx, img); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	count := 0
	for d, doc := range docs {
		if below[d] || named[d] {
			continue
		}
		_, err := s.images.Create(ctx, images.Image{Name: danglingName(d), Target: descOf(d, doc, sizes[d])})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
		count++
	}
	s.log.WarnContext(ctx, "images were found again by their blobs", "with a name", len(named), "without", count)
	return nil
}

// copiedNames reads the copy of the names.
func (s *Store) copiedNames(ctx context.Context) []images.Image {
	var out []images.Image
	b, err := os.ReadFile(s.path(namesFile))
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.WarnContext(ctx, "the copy of the images' names cannot be read", "err", err)
	}
	return out
}

// copyNames writes the copy of the names a little later, once for all changes
// until then.
func (s *Store) copyNames() {
	if !s.namesDue.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(namesLater, func() {
		s.namesDue.Store(false)
		if err := s.writeNames(); err != nil && !errors.Is(err, berrors.ErrDatabaseNotOpen) {
			s.log.Warn("the copy of the images' names is not written", "err", err)
		}
	})
}

func (s *Store) writeNames() error {
	all, err := s.images.List(s.ctx(context.Background()))
	if err != nil {
		return err
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	tmp := s.path(namesFile + ".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.path(namesFile))
}

// fsckAside finds what a rescue set aside.
func (s *Store) fsckAside(ctx context.Context) ([]model.Finding, error) {
	es, err := os.ReadDir(s.opts.Root)
	if err != nil {
		return nil, err
	}
	users, err := s.opts.Users(ctx)
	if err != nil {
		return nil, err
	}
	busy := false
	for _, u := range users {
		busy = busy || u.Running
	}
	var out []model.Finding
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), damagedPrefix) {
			continue
		}
		f := model.Finding{Thing: thingAside, Name: s.path(e.Name()), Detail: "databases of images that could not be read, and the layers that belong to them"}
		if f.Remedy = "remove it"; busy {
			f.Remedy, f.Detail = "", f.Detail+"; containers that ran then may stand on them: repair when none is running"
		}
		out = append(out, f)
	}
	return out, nil
}
