package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// GCOptions say what a collection takes.
type GCOptions struct {
	DryRun   bool
	Untagged bool          // also manifests without a tag that no tagged index names and that are no referrers
	Grace    time.Duration // younger blobs stay
}

// GCReport is what it took, or with DryRun would take.
type GCReport struct {
	Kept, Blobs, Manifests, Links, Tags int
	Bytes                               int64
}

// store is the directory as distribution's library shows it, beside the app.
type store struct {
	root   string
	driver driver.StorageDriver
	ns     distribution.Namespace
}

func openStore(ctx context.Context, root string) (*store, error) {
	d, err := filesystem.FromParameters(map[string]any{"rootdirectory": root})
	if err != nil {
		return nil, err
	}
	ns, err := storage.NewRegistry(ctx, d, storage.EnableDelete)
	return &store{root, d, ns}, err
}

// missing: a repository without this part.
func missing(err error) bool {
	var nf driver.PathNotFoundError
	var unknown distribution.ErrRepositoryUnknown
	return errors.As(err, &nf) || errors.As(err, &unknown)
}

// repositories calls fn for each.
func (s *store) repositories(ctx context.Context, fn func(name string, r distribution.Repository) error) error {
	all, ok := s.ns.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.New("the storage cannot list repositories")
	}
	err := all.Enumerate(ctx, func(name string) error {
		n, err := reference.WithName(name)
		if err != nil {
			return err
		}
		r, err := s.ns.Repository(ctx, n)
		if err != nil {
			return err
		}
		return fn(name, r)
	})
	if missing(err) {
		return nil
	}
	return err
}

// revisions calls fn for the manifests of a repository.
func revisions(ctx context.Context, r distribution.Repository, fn func(digest.Digest, distribution.Manifest) error) error {
	ms, err := r.Manifests(ctx)
	if err != nil {
		return err
	}
	all, ok := ms.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the storage cannot list manifests")
	}
	err = all.Enumerate(ctx, func(d digest.Digest) error {
		m, err := ms.Get(ctx, d)
		if err != nil {
			return fmt.Errorf("manifest %s@%s: %w", r.Named().Name(), d, err)
		}
		return fn(d, m)
	})
	if missing(err) {
		return nil
	}
	return err
}

// manifests calls fn for every manifest there is.
func (s *store) manifests(ctx context.Context, fn func(repo string, d digest.Digest, typ string, b []byte) error) error {
	return s.repositories(ctx, func(name string, r distribution.Repository) error {
		return revisions(ctx, r, func(d digest.Digest, m distribution.Manifest) error {
			typ, b, err := m.Payload()
			if err != nil {
				return err
			}
			return fn(name, d, typ, b)
		})
	})
}

// found is what the marking learns of one repository.
type found struct {
	root string
	repo distribution.Repository
	refs map[digest.Digest][]ocispec.Descriptor // by manifest
	kept map[digest.Digest]bool
	used map[digest.Digest]bool // kept, and what those name
	gone []string               // tags of signatures whose image is gone
}

// collection is one run of the collector.
type collection struct {
	*store
	o      GCOptions
	marked map[digest.Digest]bool
	rep    GCReport
}

// collect removes what no manifest names. Nobody may write meanwhile.
func collect(ctx context.Context, root string, o GCOptions) (GCReport, error) {
	st, err := openStore(ctx, root)
	if err != nil {
		return GCReport{}, err
	}
	c := &collection{store: st, o: o, marked: map[digest.Digest]bool{}}
	var all []*found
	err = st.repositories(ctx, func(_ string, r distribution.Repository) error {
		f, err := c.mark(ctx, r)
		all = append(all, f)
		return err
	})
	if err != nil {
		return c.rep, fmt.Errorf("collect %s: %w", root, err)
	}
	for _, f := range all {
		if err := c.sweepRepository(ctx, f); err != nil {
			return c.rep, fmt.Errorf("collect %s: %w", f.repo.Named(), err)
		}
	}
	c.rep.Kept = len(c.marked)
	return c.rep, c.sweepBlobs(ctx)
}

// mark decides which manifests of a repository stay, and marks what they name.
func (c *collection) mark(ctx context.Context, r distribution.Repository) (*found, error) {
	f := &found{root: c.root, repo: r, refs: map[digest.Digest][]ocispec.Descriptor{}, kept: map[digest.Digest]bool{}, used: map[digest.Digest]bool{}}
	subjects := map[digest.Digest]digest.Digest{}
	err := revisions(ctx, r, func(d digest.Digest, m distribution.Manifest) error {
		f.refs[d] = m.References()
		_, b, err := m.Payload()
		if err != nil {
			return err
		}
		if s := subjectOf(b); s != "" {
			subjects[d] = s
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	about, err := c.anchors(ctx, f)
	if err != nil {
		return f, err
	}
	// Signatures and attestations stay as long as what they are about.
	for again := true; again; {
		again = false
		for d, s := range subjects {
			if !f.kept[d] && f.kept[f.real(s)] {
				f.keep(d)
				again = true
			}
		}
		for _, a := range about {
			if !f.kept[a.signature] && f.kept[a.image] {
				f.keep(a.signature)
				again = true
			}
		}
	}
	for _, a := range about {
		if !f.kept[a.image] {
			f.gone = append(f.gone, a.tag)
		}
	}
	for d := range f.kept {
		c.needed(f, d)
		for _, x := range f.refs[d] {
			c.needed(f, x.Digest)
		}
	}
	return f, nil
}

// needed marks d, and what it is a link to when it is no sha256.
func (c *collection) needed(f *found, d digest.Digest) {
	ds := []digest.Digest{d}
	if other(d) {
		for _, kind := range []string{layerLinks, manifestLinks} {
			if real, err := linked(c.root, f.repo.Named().Name(), kind, d); err == nil {
				ds = append(ds, real)
			}
		}
	}
	for _, d := range ds {
		f.used[d], c.marked[d] = true, true
	}
}

// keep keeps a manifest and those that it names.
func (f *found) keep(d digest.Digest) {
	d = f.real(d)
	refs, here := f.refs[d]
	if !here || f.kept[d] {
		return
	}
	f.kept[d] = true
	for _, x := range refs {
		f.keep(x.Digest)
	}
}

// real is the digest under which the storage has manifest d.
func (f *found) real(d digest.Digest) digest.Digest {
	if other(d) {
		if real, err := linked(f.root, f.repo.Named().Name(), manifestLinks, d); err == nil {
			return real
		}
	}
	return d
}

// blobDir is where distribution keeps a blob.
func (s *store) blobDir(d digest.Digest) string {
	return filepath.Join(s.root, "docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// young: the blob came within the time of grace.
func (c *collection) young(d digest.Digest) bool {
	st, err := os.Stat(filepath.Join(c.blobDir(d), "data"))
	return err == nil && time.Since(st.ModTime()) < c.o.Grace
}

// sweepRepository takes manifests out, and links to layers that none names. A
// link's own age counts: a blob mounted from elsewhere is old.
func (c *collection) sweepRepository(ctx context.Context, f *found) error {
	v := storage.NewVacuum(ctx, c.driver)
	name := f.repo.Named().Name()
	c.rep.Tags += len(f.gone)
	for _, t := range f.gone {
		if c.o.DryRun {
			break
		}
		if err := f.repo.Tags(ctx).Untag(ctx, t); err != nil {
			return fmt.Errorf("tag %s: %w", t, err)
		}
	}
	tags, err := f.repo.Tags(ctx).All(ctx)
	if err != nil && !missing(err) {
		return err
	}
	for d := range f.refs {
		if f.used[d] {
			continue
		}
		c.rep.Manifests++
		if !c.o.DryRun {
			if err := v.RemoveManifest(name, d, tags); err != nil {
				return err
			}
		}
	}
	return errors.Join(c.sweepOther(f), c.sweepLinks(f))
}

// sweepOther takes out the links from other digests to manifests that went.
func (c *collection) sweepOther(f *found) error {
	name := f.repo.Named().Name()
	revisions := filepath.Join(repositoryDir(c.root, name), manifestLinks)
	dirs, err := filepath.Glob(filepath.Join(revisions, "*", "*"))
	if err != nil || c.o.DryRun {
		return err
	}
	for _, dir := range dirs {
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(dir))), filepath.Base(dir))
		if !other(d) {
			continue
		}
		real, err := linked(c.root, name, manifestLinks, d)
		if err == nil && (f.used[real] || c.young(real)) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// sweepLinks takes out links to layers that no manifest of the repository names.
func (c *collection) sweepLinks(f *found) error {
	layers := filepath.Join(repositoryDir(c.root, f.repo.Named().Name()), layerLinks)
	return filepath.WalkDir(layers, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() || e.Name() != "link" {
			return err
		}
		hex := filepath.Dir(p)
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(hex))), filepath.Base(hex))
		st, err := e.Info()
		if err != nil || d.Validate() != nil || f.used[d] {
			return err
		}
		if time.Since(st.ModTime()) < c.o.Grace {
			c.needed(f, d)
			return nil
		}
		c.rep.Links++
		if c.o.DryRun {
			return nil
		}
		return os.RemoveAll(hex)
	})
}

// sweepBlobs takes what is not marked.
func (c *collection) sweepBlobs(ctx context.Context) error {
	blobs := filepath.Join(c.root, "docker/registry/v2/blobs")
	return filepath.WalkDir(blobs, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() || e.Name() != "data" {
			return err
		}
		rel, err := filepath.Rel(blobs, filepath.Dir(p))
		if err != nil {
			return err
		}
		parts := strings.Split(rel, string(filepath.Separator))
		d := digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), filepath.Base(rel))
		if d.Validate() != nil || c.marked[d] || c.young(d) {
			return ctx.Err()
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		c.rep.Blobs++
		c.rep.Bytes += st.Size()
		if c.o.DryRun {
			return nil
		}
		return os.RemoveAll(filepath.Dir(p))
	})
}
