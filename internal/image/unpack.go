package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// labelSnapshot, at a configuration, keeps its unpacked layers.
const labelSnapshot = "containerd.io/gc.ref.snapshot." + snapshotter

// task unpacks one layer blob into a directory of its own. Tasks of one image
// run side by side; link puts their results on top of each other.
type task struct {
	blob digest.Digest
	done chan struct{}

	// Set when done is closed.
	key    string // active snapshot, removed again if nobody links it
	diffID digest.Digest
	plain  bool // the blob is the uncompressed tar
	layer  *applier
	err    error
}

// unpacker runs the layer tasks of one operation. ctx carries its lease.
type unpacker struct {
	s    *Store
	ctx  context.Context
	stop context.CancelFunc

	mu    sync.Mutex // guards tasks
	tasks map[digest.Digest]*task
	loose []*task                // streamed, for close
	had   map[digest.Digest]bool // layers that a pull found here

	// extracting and extracted tell progress; nil: nobody listens.
	extracting func(blob digest.Digest, done, total int64)
	extracted  func(blob digest.Digest)
}

func (s *Store) newUnpacker(ctx context.Context) *unpacker {
	ctx, stop := context.WithCancel(ctx)
	return &unpacker{s: s, ctx: ctx, stop: stop, tasks: map[digest.Digest]*task{}, had: map[digest.Digest]bool{}}
}

// start begins to unpack blob, which is in the content store.
func (u *unpacker) start(blob digest.Digest) *task {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t := u.tasks[blob]; t != nil {
		return t
	}
	t := &task{blob: blob, done: make(chan struct{})}
	u.tasks[blob] = t
	go func() {
		defer close(t.done)
		if t.err = u.s.unpacking.Acquire(u.ctx, 1); t.err != nil {
			return
		}
		defer u.s.unpacking.Release(1)
		t.err = u.s.unpackBlob(u.ctx, t, u.extracting)
	}()
	return t
}

// stream unpacks a blob while it is being stored: what is read from the reader
// that it returns goes to a task too. ended must be called with the blob's
// digest, or with why it was not stored. When all hands are busy the blob is
// unpacked from the store later.
func (u *unpacker) stream(r io.Reader) (_ io.Reader, ended func(blob digest.Digest, err error)) {
	if !u.s.unpacking.TryAcquire(1) {
		return r, func(blob digest.Digest, err error) {
			if err == nil {
				u.start(blob)
			}
		}
	}
	pr, pw := io.Pipe()
	t := &task{done: make(chan struct{})}
	u.loose = append(u.loose, t)
	go func() {
		defer close(t.done)
		defer u.s.unpacking.Release(1)
		t.err = u.s.unpackFrom(u.ctx, t, pr)
		_, _ = io.Copy(io.Discard, pr) // the store wants the rest
	}()
	return io.TeeReader(r, pw), func(blob digest.Digest, err error) {
		pw.CloseWithError(err) // nil: io.EOF
		if err != nil {
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.tasks[blob] == nil {
			u.tasks[blob] = t
		}
	}
}

// close ends the tasks and removes what was unpacked in vain.
func (u *unpacker) close() {
	u.stop()
	ctx := context.WithoutCancel(u.ctx)
	for _, t := range u.tasks {
		<-t.done
		u.s.dropTask(ctx, t)
	}
	for _, t := range u.loose {
		<-t.done
		u.s.dropTask(ctx, t)
	}
}

func (s *Store) dropTask(ctx context.Context, t *task) {
	if t.key == "" {
		return
	}
	if err := s.snaps.Remove(ctx, t.key); err != nil && !errdefs.IsNotFound(err) {
		s.log.WarnContext(ctx, "layer unpacked in vain not removed; the collector will", "key", t.key, "err", err)
	}
	s.gc.later()
}

// unpackBlob unpacks a blob of the content store.
func (s *Store) unpackBlob(ctx context.Context, t *task, progress func(digest.Digest, int64, int64)) error {
	ra, err := s.cs.ReaderAt(ctx, ocispec.Descriptor{Digest: t.blob})
	if err != nil {
		return err
	}
	defer ra.Close()
	var src io.Reader = content.NewReader(ra)
	if progress != nil {
		src = &meter{r: src, tell: func(n int64) { progress(t.blob, n, ra.Size()) }}
	}
	return s.unpackFrom(ctx, t, src)
}

// unpackFrom reads a blob once: decompresses, digests and unpacks it. An
// uncompressed one is digested by whoever stores it.
func (s *Store) unpackFrom(ctx context.Context, t *task, src io.Reader) error {
	key := "unpack-" + string(model.NewID())
	ms, err := s.snaps.Prepare(ctx, key, "")
	if err != nil {
		return err
	}
	t.key = key
	if len(ms) != 1 || ms[0].Source == "" {
		return model.Refuse(errdefs.ErrInternal, "snapshotter gave no directory to unpack to")
	}
	z, err := decompress(src)
	if err != nil {
		return err
	}
	defer z.Close()
	t.plain = z.plain
	d := newDigestReader(z, !z.plain)
	defer d.Close()
	if t.layer, err = apply(ctx, ms[0].Source, d); err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	t.diffID = d.Digest()
	// On the disk before its record is. What link changes afterwards are
	// directories' owners and times, which the journal writes before the record.
	if err := s.syncer.sync(ms[0].Source); err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	return nil
}

// unpack makes sure that every layer of v is unpacked and linked, and that the
// configuration keeps them. Tasks that were started before are used.
func (u *unpacker) unpack(v variant) error {
	s, layers := u.s, imageLayers(v.manifest)
	there := len(layers) // so many layers, from the bottom, are unpacked
	for ; there > 0; there-- {
		err := s.holdChain(u.ctx, v.config.chains[there-1])
		if err == nil {
			break
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	for _, l := range layers[there:] {
		u.start(l.Digest)
	}
	for i, l := range layers {
		if i >= there {
			if err := u.link(i, l.Digest, v.config); err != nil {
				return err
			}
		}
		if u.extracted != nil {
			u.extracted(l.Digest)
		}
	}
	if chain := v.config.chain(); chain != "" {
		defer s.unpacked(chain)
		return s.addLabels(u.ctx, v.manifest.Config.Digest, map[string]string{labelSnapshot: chain.String()})
	}
	return nil
}

// link waits for layer i and makes it the snapshot chains[i].
func (u *unpacker) link(i int, blob digest.Digest, c *config) error {
	s, chain, parent := u.s, c.chains[i].String(), ""
	if i > 0 {
		parent = c.chains[i-1].String()
	}
	unlock, err := s.chains.lock(u.ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	if s.holdChain(u.ctx, c.chains[i]) == nil {
		return nil // another image brought it meanwhile
	}
	t := u.start(blob) // begun already, but the second time that one image has the blob
	select {
	case <-t.done:
	case <-u.ctx.Done():
		return u.ctx.Err()
	}
	if t.err != nil {
		return fmt.Errorf("layer %s: %w", blob, t.err)
	}
	if t.plain {
		t.diffID = blob
	}
	if t.diffID != c.RootFS.DiffIDs[i] {
		return model.Refuse(errdefs.ErrInvalidArgument, "layer %s holds %s, but the image's configuration says %s", blob, t.diffID, c.RootFS.DiffIDs[i])
	}
	if i > 0 {
		low, err := s.lower(u.ctx, c.chains[i-1])
		if err != nil {
			return err
		}
		if err := t.layer.adopt(low.dirs); err != nil {
			return fmt.Errorf("unpack layer %s: %w", blob, err)
		}
	}
	err = s.snaps.Commit(u.ctx, chain, t.key, snapshots.WithParent(parent))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("layer %s: %w", blob, err)
	}
	if err == nil {
		t.key = ""
	}
	u.mu.Lock()
	delete(u.tasks, blob)
	u.mu.Unlock()
	s.dropTask(u.ctx, t)
	if !t.plain {
		return s.addLabels(u.ctx, blob, map[string]string{labels.LabelUncompressed: t.diffID.String()})
	}
	return nil
}

// ensureUnpacked unpacks img if its layers are not there (an image that was
// loaded for another platform, or whose unpacking was cut short).
func (s *Store) ensureUnpacked(ctx context.Context, img model.Image) error {
	ctx, done, err := s.lease(ctx, "unpack")
	if err != nil {
		return err
	}
	defer done()
	v, err := s.readVariant(ctx, img.Manifest)
	if err != nil {
		return err
	}
	unlock, err := s.chains.lock(ctx, adopting(v.config.chain())) // a build may just be bringing them
	if err != nil {
		return err
	}
	defer unlock()
	u := s.newUnpacker(ctx)
	defer u.close()
	if err := u.unpack(v); err != nil {
		return err
	}
	// A container will be recorded as standing on it.
	return s.ledger.settle()
}

// addLabels adds labels to a blob.
func (s *Store) addLabels(ctx context.Context, dgst digest.Digest, l map[string]string) error {
	info, paths := content.Info{Digest: dgst, Labels: l}, make([]string, 0, len(l))
	have, err := s.cs.Info(ctx, dgst)
	if err != nil {
		return err
	}
	for k, v := range l {
		if have.Labels[k] != v {
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	_, err = s.cs.Update(ctx, info, paths...)
	return err
}

// errPartial: some blob of an image is not in the content store.
var errPartial = errors.New("content is missing")
