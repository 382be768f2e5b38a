package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/image/erofs"
	"wharf/internal/model"
)

// writableSize is how large a writable disk looks; it takes what is written.
const writableSize = 64 << 30

// emptyDisk is what an empty file system of writableSize has on its disk: some
// 300 KB in a few dozen places. mkfs makes it once for a daemon; to write it
// takes a tenth of mkfs's time, which somebody waits for at each first start.
// All writable disks have the same UUID then. No machine sees two of them.
type emptyDisk struct {
	mu     sync.Mutex
	pieces []piece // nil until it is made
}

// piece is a part of a sparse file.
type piece struct {
	at   int64
	data []byte
}

// writableDisk makes an empty ext4 in a sparse file.
func (s *Store) writableDisk(ctx context.Context, at string) error {
	if _, err := os.Stat(at); err == nil {
		return nil
	}
	tmp := at + ".new"
	pieces, err := s.empty.get(ctx, tmp)
	if err == nil {
		err = writePieces(tmp, pieces)
	}
	if err == nil {
		err = os.Rename(tmp, at)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// MachineDisks writes an image of tree and an empty writable disk, both for a
// machine that is nobody's.
func (s *Store) MachineDisks(ctx context.Context, tree string, root, writable *os.File) error {
	if err := erofs.Write(ctx, root, tree); err != nil {
		return err
	}
	tmp, err := os.CreateTemp("", "machine-disk-")
	if err != nil {
		return err
	}
	pieces, err := s.empty.get(ctx, tmp.Name())
	_, _ = tmp.Close(), os.Remove(tmp.Name())
	for i := 0; err == nil && i < len(pieces); i++ {
		_, err = writable.WriteAt(pieces[i].data, pieces[i].at)
	}
	return err
}

// get returns the pieces; tmp is a file that may be used to find them out.
func (e *emptyDisk) get(ctx context.Context, tmp string) ([]piece, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pieces != nil {
		return e.pieces, nil
	}
	if err := makeEmpty(ctx, tmp); err != nil {
		return nil, err
	}
	var err error
	e.pieces, err = readPieces(tmp)
	return e.pieces, errors.Join(err, os.Remove(tmp))
}

// makeEmpty has mkfs make the file system.
func makeEmpty(ctx context.Context, at string) error {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			return model.Refuse(errdefs.ErrUnavailable, "isolation vm needs mkfs.ext4 for its writable layer: apt-get install e2fsprogs")
		}
	}
	if err := writePieces(at, nil); err != nil {
		return err
	}
	// No journal to write at first, few inode tables to zero: 64 GiB in a few
	// megabytes. The guest's kernel does the rest lazily.
	c := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0", "-i", "65536", "-J", "size=16",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-O", "^resize_inode,sparse_super2", at)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// writePieces makes a file of writableSize that is empty but for pieces.
func writePieces(at string, pieces []piece) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(writableSize)
	for i := 0; err == nil && i < len(pieces); i++ {
		_, err = f.WriteAt(pieces[i].data, pieces[i].at)
	}
	return errors.Join(err, f.Close())
}

// mostPieces bounds what is kept of a file whose file system does not tell
// holes: then all of it would be data.
const mostPieces = 64 << 20

// readPieces returns what a sparse file has beside holes (lseek(2)).
func readPieces(at string) (out []piece, err error) {
	f, err := os.Open(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var sum int64
	for end := int64(0); ; {
		begin, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more
			return out, nil
		}
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("look for data in %s: %w", at, err)
		}
		if sum += end - begin; sum > mostPieces {
			return nil, fmt.Errorf("%s: its file system knows no holes, so that each virtual machine would take %d GiB", at, writableSize>>30)
		}
		data := make([]byte, end-begin)
		if _, err := io.ReadFull(io.NewSectionReader(f, begin, end-begin), data); err != nil {
			return nil, err
		}
		out = append(out, piece{begin, data})
	}
}
