package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"wharf/internal/model"
)

// Disks are made behind what shows that they will be wanted: an image comes to a
// host where machines are usual (Options.Disks), an instance that is a machine is
// created. Who starts one meanwhile waits for the one that is being written, or
// writes its own next; the rest of the queue comes after that.

// mostSoon bounds the queue; what does not fit is made at its first start.
const mostSoon = 64

// disker makes disks.
type disker struct {
	one  *semaphore.Weighted // one at a time: each fills a processor and the disk's queue
	ctx  context.Context     // the store's life
	end  context.CancelFunc
	mu   sync.Mutex
	soon []digest.Digest
	busy bool // somebody works on soon
}

func (d *disker) init() {
	d.one = semaphore.NewWeighted(1)
	d.ctx, d.end = context.WithCancel(context.Background())
}

// close ends what is being written. It is not waited for: it is the trash's.
func (d *disker) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
}

// DiskSoon implements lifecycle's images: a machine with this image was made.
func (s *Store) DiskSoon(img model.Image) { s.diskSoon(img.ChainID) }

// unpacked is told of each image that has been unpacked.
func (s *Store) unpacked(chain digest.Digest) {
	if s.opts.Disks {
		s.diskSoon(chain)
	}
}

func (s *Store) diskSoon(chain digest.Digest) {
	d := &s.disks
	if _, err := os.Stat(s.diskName(chain)); err == nil || chain == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.soon) >= mostSoon || slices.Contains(d.soon, chain) || d.ctx.Err() != nil {
		return
	}
	d.soon = append(d.soon, chain)
	if !d.busy {
		d.busy = true
		s.trash.wg.Go(s.makeSoon)
	}
}

// makeSoon works until the queue is empty.
func (s *Store) makeSoon() {
	d := &s.disks
	for {
		d.mu.Lock()
		if len(d.soon) == 0 || d.ctx.Err() != nil {
			d.busy = false
			d.mu.Unlock()
			return
		}
		chain := d.soon[0]
		d.mu.Unlock()
		err := s.makeDisk(chain)
		if err != nil && !errdefs.IsNotFound(err) && d.ctx.Err() == nil {
			s.log.Warn("the disk of an image for virtual machines is made at its first start", "chain", chain, "err", err)
		}
		d.mu.Lock()
		d.soon = slices.DeleteFunc(d.soon, func(c digest.Digest) bool { return c == chain })
		d.mu.Unlock()
	}
}

// makeDisk keeps the chain's layers here meanwhile.
func (s *Store) makeDisk(chain digest.Digest) (err error) {
	ctx, done, err := s.lease(s.ctx(s.disks.ctx), "disk")
	if err != nil {
		return err
	}
	defer done()
	if err := s.holdChain(ctx, chain); err != nil {
		return err
	}
	low, err := s.lower(ctx, chain)
	if err != nil {
		return err
	}
	_, err = s.chainDisk(ctx, chain, low.dirs)
	return err
}

// sweepDisks removes what a crash left half written.
func (s *Store) sweepDisks() error {
	left, err := filepath.Glob(s.path("disks", newDisk+"*"))
	for _, at := range left {
		err = errors.Join(err, os.Remove(at))
	}
	return err
}

// isDisk tells a disk's name.
func isDisk(name string) (digest.Digest, bool) {
	hex, ok := strings.CutSuffix(name, ".erofs")
	return digest.NewDigestFromEncoded(digest.SHA256, hex), ok && hex != "empty"
}
