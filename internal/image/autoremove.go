package image

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// AutoRemoval says when images go by themselves: what no container has used
// for Age, the longest unused first, while more of the disk is used than Mark.
// The zero value turns it off.
type AutoRemoval struct {
	Age  time.Duration
	Mark func(disk int64) int64 // bytes in use, of that many
}

// autoRemoval is that with what is known about the use of images.
type autoRemoval struct {
	s *Store

	mu    sync.Mutex // guards the rest
	rule  AutoRemoval
	stop  context.CancelFunc // of the loop; nil: off
	done  chan struct{}
	used  map[digest.Digest]time.Time // by manifest and by image
	since time.Time                   // when the loop began
	kept  time.Time                   // when used was last written
	last  string                      // what was last warned about
}

// usedFile keeps the times over restarts. It is a help: without it an image
// counts as used when it was first seen.
const usedFile = "used.json"

// The look at the disk costs a system call and the list of containers.
const (
	longestLook = 5 * time.Minute
	keepEvery   = time.Hour
)

// SetAutoRemoval begins, changes or ends the removal of unused images. The
// caller has recovered its containers.
func (s *Store) SetAutoRemoval(r AutoRemoval) {
	a := &s.auto
	a.end()
	if r.Age <= 0 || r.Mark == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s, a.rule, a.since = s, r, time.Now()
	if a.used == nil {
		a.used = a.read()
	}
	ctx, cancel := context.WithCancel(s.ctx(context.Background()))
	a.stop, a.done = cancel, make(chan struct{})
	go a.loop(ctx, min(longestLook, max(time.Second, r.Age/10)), a.done)
}

// end stops the loop and keeps what it knows.
func (a *autoRemoval) end() {
	a.mu.Lock()
	stop, done := a.stop, a.done
	a.stop = nil
	a.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	<-done
	a.mu.Lock()
	defer a.mu.Unlock()
	a.write(time.Now())
}

func (a *autoRemoval) loop(ctx context.Context, every time.Duration, done chan struct{}) {
	defer close(done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		if err := a.look(ctx, time.Now(), diskUse); err != nil && ctx.Err() == nil {
			a.s.log.WarnContext(ctx, "images are not removed by themselves", "err", err)
		}
	}
}

// note says that an image is used now.
func (a *autoRemoval) note(now time.Time, ds ...digest.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used == nil {
		return // off, and was never on
	}
	for _, d := range ds {
		a.used[d] = now
	}
}

// diskUse is the size of the file system and how much of it is not free to
// users.
func diskUse(path string) (size, used int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	size = int64(st.Blocks) * st.Bsize
	return size, size - int64(st.Bavail)*st.Bsize, nil
}

// look notes what is in use and, past the mark, removes what is not.
func (a *autoRemoval) look(ctx context.Context, now time.Time, disk func(string) (int64, int64, error)) error {
	inUse, err := a.s.inUse(ctx)
	if err != nil {
		return err
	}
	for d := range inUse {
		a.note(now, d)
	}
	es, err := a.s.entries(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	age, mark := a.rule.Age, a.rule.Mark
	a.learn(es, now)
	if now.Sub(a.kept) >= min(keepEvery, age/10) {
		a.write(now)
	}
	a.mu.Unlock()
	size, used, err := disk(a.s.opts.Root)
	if err != nil || used <= mark(size) {
		return err
	}
	return a.remove(ctx, now, func() (bool, error) {
		size, used, err := disk(a.s.opts.Root)
		return used > mark(size), err
	})
}

// inUse are the manifests and images that containers use, those in the trash
// too: what a writable layer stands on, and what the records name.
func (s *Store) inUse(ctx context.Context) (map[digest.Digest]bool, error) {
	out := map[digest.Digest]bool{}
	ids, err := s.preparedIDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		for _, b := range s.bases(id) {
			out[b.manifest] = true
		}
	}
	users, err := s.opts.Users(ctx)
	for _, u := range users {
		out[u.Image] = true
	}
	return out, err
}

// learn forgets images that are gone and begins to count for new ones. The
// caller holds mu.
func (a *autoRemoval) learn(es []*entry, now time.Time) {
	here := map[digest.Digest]bool{}
	for _, e := range es {
		here[e.target.Digest] = true
		if e.variant.config != nil {
			here[e.variant.desc.Digest] = true
		}
		if _, ok := a.used[e.target.Digest]; !ok {
			a.used[e.target.Digest] = now
			if e.tagged.After(a.since) {
				a.used[e.target.Digest] = e.tagged
			}
		}
	}
	for d, t := range a.used {
		if !here[d] && now.Sub(t) > a.rule.Age {
			delete(a.used, d)
		}
	}
}

// lastUse is when an image was last used, pulled, or given a name.
func (a *autoRemoval) lastUse(e *entry) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.used[e.target.Digest]
	if e.variant.config != nil {
		if v := a.used[e.variant.desc.Digest]; v.After(t) {
			t = v
		}
	}
	if e.tagged.After(t) {
		t = e.tagged
	}
	return t
}

// remove removes one image after the other while the disk is too full.
func (a *autoRemoval) remove(ctx context.Context, now time.Time, full func() (bool, error)) error {
	for {
		removed, err := a.removeOldest(ctx, now)
		if err != nil {
			return err
		}
		if !removed {
			a.warn(ctx, "the disk is past image-gc-mark, and no image is unused for so long that it goes by itself")
			return nil
		}
		if err := a.s.gc.run(ctx); err != nil {
			return err
		}
		if more, err := full(); err != nil || !more {
			a.warn(ctx, "")
			return err
		}
	}
}

// warn says a thing once, until something else is to be said.
func (a *autoRemoval) warn(ctx context.Context, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if text != "" && text != a.last {
		a.s.log.WarnContext(ctx, text, "age", a.rule.Age)
	}
	a.last = text
}

// removeOldest takes the image that was unused for longest, if that is long
// enough. What is looked at and what goes is under the lock of names, so that
// an image that was just tagged stays.
func (a *autoRemoval) removeOldest(ctx context.Context, now time.Time) (bool, error) {
	s := a.s
	a.mu.Lock()
	age := a.rule.Age
	a.mu.Unlock()
	s.names.Lock()
	defer s.names.Unlock()
	es, err := s.entries(ctx)
	if err != nil {
		return false, err
	}
	inUse, err := s.inUse(ctx)
	if err != nil {
		return false, err
	}
	es = slices.DeleteFunc(es, func(e *entry) bool {
		used := inUse[e.target.Digest] || slices.ContainsFunc(e.tags, func(t string) bool { return t == baseName+":latest" })
		_ = s.walkManifests(ctx, e.target, func(d ocispec.Descriptor) error {
			used = used || inUse[d.Digest]
			return nil
		})
		return used || now.Sub(a.lastUse(e)) < age
	})
	if len(es) == 0 {
		return false, nil
	}
	e := slices.MinFunc(es, func(x, y *entry) int { return a.lastUse(x).Compare(a.lastUse(y)) })
	r := &remover{s: s, ctx: ctx}
	last := a.lastUse(e)
	if err := r.untag(e.names); err != nil {
		return false, err
	}
	r.deleted(e.target.Digest)
	s.log.InfoContext(ctx, "image removed by itself: the disk is past image-gc-mark", "id", e.target.Digest, "names", e.tags, "last used", last, "ago", units.HumanDuration(now.Sub(last)))
	return true, nil
}

// read is what an earlier daemon kept.
func (a *autoRemoval) read() map[digest.Digest]time.Time {
	out := map[digest.Digest]time.Time{}
	b, err := os.ReadFile(a.s.path(usedFile))
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.s.log.Warn("when images were used is not known; all count as used now", "err", err)
		}
		return map[digest.Digest]time.Time{}
	}
	return out
}

// write keeps the times. The caller holds mu.
func (a *autoRemoval) write(now time.Time) {
	b, err := json.Marshal(a.used)
	if err == nil {
		tmp := a.s.path(usedFile + ".new")
		if err = os.WriteFile(tmp, b, 0o600); err == nil {
			err = os.Rename(tmp, a.s.path(usedFile))
		}
	}
	if err != nil {
		a.s.log.Warn("when images were used is not kept", "err", err)
	}
	a.kept = now
}
