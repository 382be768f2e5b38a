package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A file of points has room for two, of which the older is written over:
//
//	offset 0, 4096:
//	  0 magic | 8 count of points | 16 boot id (40) | 56 page size | 64 start of the meta page (128) |
//	  192 inode of the database | 200 its birth, ns (0: not known) | 208 SHA-256 of all before
//
// Numbers are little endian, as bolt's on the machines that wharf runs on.
const (
	pointMagic  = "wharfpt2"
	pointSlot   = 4096
	pointSum    = 208
	pointLen    = pointSum + sha256.Size
	pointSuffix = ".point"
)

// metaHead is the start of a bolt meta page: a page header of 16 bytes, then
// magic, version, page size, flags, root (2 numbers), freelist, high water mark,
// transaction, checksum of the meta.
type metaHead []byte

const metaHeadLen = 128

func (m metaHead) txid() uint64     { return binary.LittleEndian.Uint64(m[64:]) }
func (m metaHead) pages() uint64    { return binary.LittleEndian.Uint64(m[56:]) }
func (m metaHead) pageSize() uint32 { return binary.LittleEndian.Uint32(m[24:]) }

func (m metaHead) valid() bool {
	if len(m) != metaHeadLen || binary.LittleEndian.Uint32(m[16:]) != 0xED0CDAED {
		return false
	}
	return m.sum() == binary.LittleEndian.Uint64(m[72:])
}

func (m metaHead) sum() uint64 {
	h := fnv.New64a()
	h.Write(m[16:72])
	return h.Sum64()
}

// withoutFreelist is a copy that has bolt look for the free pages itself: no
// reader keeps the list of a state in its place.
func (m metaHead) withoutFreelist() metaHead {
	m = bytes.Clone(m)
	binary.LittleEndian.PutUint64(m[48:], math.MaxUint64)
	binary.LittleEndian.PutUint64(m[72:], m.sum())
	return m
}

// fileID tells a database from a copy of it.
type fileID struct{ inode, birth uint64 }

func identify(f *os.File) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	id := fileID{inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
	}
	return id, nil
}

// pointFile writes the points of one database.
type pointFile struct {
	db, f    *os.File
	id       fileID
	boot     string
	pageSize int
	count    uint64
}

func openPoints(path string, pageSize int) (*pointFile, error) {
	old, _, err := lastPoint(path + pointSuffix)
	if err != nil {
		return nil, err
	}
	db, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	id, err := identify(db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	f, err := os.OpenFile(path+pointSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	p := &pointFile{db: db, f: f, id: id, boot: bootID(), pageSize: pageSize}
	if old != nil {
		p.count = old.count
	}
	return p, syncDir(path)
}

// read reads the meta page of a transaction.
func (p *pointFile) read(tx int) (metaHead, error) {
	head := make(metaHead, metaHeadLen)
	_, err := p.db.ReadAt(head, int64(tx%2)*int64(p.pageSize))
	return head, err
}

// write puts a point on the disk.
func (p *pointFile) write(head metaHead) error {
	b := make([]byte, pointLen)
	copy(b, pointMagic)
	binary.LittleEndian.PutUint64(b[8:], p.count+1)
	copy(b[16:56], p.boot)
	binary.LittleEndian.PutUint32(b[56:], uint32(p.pageSize))
	copy(b[64:192], head)
	binary.LittleEndian.PutUint64(b[192:], p.id.inode)
	binary.LittleEndian.PutUint64(b[200:], p.id.birth)
	sum := sha256.Sum256(b[:pointSum])
	copy(b[pointSum:], sum[:])
	if _, err := p.f.WriteAt(b, int64((p.count+1)%2)*pointSlot); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(p.f.Fd())); err != nil {
		return fmt.Errorf("%s: %w", p.f.Name(), err)
	}
	p.count++
	return nil
}

// remove ends the points: the database is whole without.
func (p *pointFile) remove() error {
	err := os.Remove(p.f.Name())
	return errors.Join(err, syncDir(p.f.Name()), p.f.Close(), p.db.Close())
}

// point is one that was read.
type point struct {
	count uint64
	id    fileID
	boot  string
	head  metaHead
}

// lastPoint reads the newest point of a file, nil when there is none.
func lastPoint(path string) (newest *point, pageSize int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*pointSlot))
	if err != nil {
		return nil, 0, err
	}
	for _, at := range []int{0, pointSlot} {
		if len(b) < at+pointLen {
			continue
		}
		p := parsePoint(b[at : at+pointLen])
		if p != nil && (newest == nil || p.count > newest.count) {
			newest, pageSize = p, int64(p.head.pageSize())
		}
	}
	return newest, pageSize, nil
}

// parsePoint reads one of a file's two, nil when it is none: a write of it may
// have been cut short.
func parsePoint(b []byte) *point {
	sum := sha256.Sum256(b[:pointSum])
	if string(b[:8]) != pointMagic || !bytes.Equal(sum[:], b[pointSum:pointLen]) {
		return nil
	}
	p := &point{
		count: binary.LittleEndian.Uint64(b[8:]),
		id:    fileID{inode: binary.LittleEndian.Uint64(b[192:]), birth: binary.LittleEndian.Uint64(b[200:])},
		boot:  strings.TrimRight(string(b[16:56]), "\x00"),
		head:  bytes.Clone(b[64:192]),
	}
	if !p.head.valid() || p.head.pageSize() != binary.LittleEndian.Uint32(b[56:]) {
		return nil
	}
	return p
}

// toPoint leads a database back to its last point if the machine went down
// since, and reports whether it did, or whether the two are copies of a running
// daemon's, so that the files beside them may be of another moment, too. The
// database must not be open.
//
// In the file that the point was made of, nothing has written over the point's
// pages. A copy has no such promise: its pages may be those of a later state,
// that go together with the point's by chance. So it is taken as it is when it
// reads as whole, and led back only when it does not.
func toPoint(path, boot string) (bool, error) {
	p, pageSize, err := lastPoint(path + pointSuffix)
	if err != nil || p == nil || p.boot == boot {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, os.Remove(path + pointSuffix)
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		return false, err
	}
	if id != p.id && whole(path) == nil {
		return true, nil
	}
	if err := leadBack(f, p, pageSize); err != nil {
		return false, err
	}
	return true, whole(path)
}

// leadBack writes the meta page of a point to both places.
func leadBack(f *os.File, p *point, pageSize int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < int64(p.head.pages())*pageSize {
		return fmt.Errorf("%s is shorter than when it was last known to be whole", f.Name())
	}
	for i := range int64(2) {
		head := p.head.withoutFreelist()
		binary.LittleEndian.PutUint64(head, uint64(i)) // the number of the page
		if _, err := f.WriteAt(head, i*pageSize); err != nil {
			return err
		}
	}
	return f.Sync()
}

// whole reads all of a database.
func whole(path string) (err error) {
	// Bolt follows what it finds, wherever that leads.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s is damaged: %v", path, r)
		}
	}()
	tx, err := db.Begin(false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return readBucket(tx.Cursor().Bucket(), 0)
}

// readBucket reads all keys, which must be in order: damage may lead round in
// circles.
func readBucket(b *bolt.Bucket, depth int) error {
	if depth > 16 {
		return errors.New("buckets in circles")
	}
	var last []byte
	return b.ForEach(func(k, v []byte) error {
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("key %q after %q", k, last)
		}
		last = k
		if v != nil {
			return nil
		}
		inner := b.Bucket(k)
		if inner == nil {
			return fmt.Errorf("bucket %q is gone", k)
		}
		return readBucket(inner, depth+1)
	})
}

// bootID tells one run of the machine from another, "" where it cannot.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func syncDir(file string) error {
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
