package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockSize  = 4096
	slotSize   = 32 // inode numbers count these
	inodeSize  = 64
	direntSize = 12
	superAt    = 1024
	magic      = 0xE0F5E1E2
	// compatMtime: inodes have the time of the last change of content.
	compatMtime = 2
)

// Data layouts of an inode.
const (
	flatPlain  = 0
	flatInline = 2 // the last part stands behind the inode
)

var le = binary.LittleEndian

// node is a file of the image.
type node struct {
	mode     uint16
	uid, gid uint32
	size     uint64
	rdev     uint32
	mtime    uint64
	nsec     uint32
	nlink    uint32
	ino      uint32
	xattrs   []byte // as they stand behind the inode
	inline   []byte // a short symbolic link
	block    uint32 // first block of the content

	parent   *node
	children []entry // of a directory, sorted
	at       int64   // of the inode, from the metadata's beginning
}

type entry struct {
	name string
	node *node
}

// file identifies a file of the source.
type file struct{ dev, ino uint64 }

type writer struct {
	ctx   context.Context
	out   *os.File
	next  int64 // first free byte
	nodes []*node
	links map[file]*node
	buf   []byte
}

// Write writes the tree below dir into out, which is empty.
func Write(ctx context.Context, out *os.File, dir string) error {
	w := &writer{ctx: ctx, out: out, next: blockSize, links: map[file]*node{}, buf: make([]byte, 256<<10)}
	root, err := w.add(dir, nil)
	if err != nil {
		return err
	}
	if root.mode&unix.S_IFMT != unix.S_IFDIR {
		return &fs.PathError{Op: "write image of", Path: dir, Err: unix.ENOTDIR}
	}
	meta := w.align(blockSize)
	w.place()
	if err := w.directories(); err != nil {
		return err
	}
	if err := w.metadata(meta); err != nil {
		return err
	}
	return w.super(root, meta)
}

// align moves to the next multiple of n.
func (w *writer) align(n int64) int64 {
	w.next = (w.next + n - 1) / n * n
	return w.next
}

// add takes the file at path in, and what is below.
func (w *writer) add(path string, parent *node) (*node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	key := file{st.Dev, st.Ino}
	if !dir && st.Nlink > 1 {
		if n := w.links[key]; n != nil {
			n.nlink++
			return n, nil
		}
	}
	if len(w.nodes) == math.MaxInt32 {
		return nil, errors.New("too many files for one image")
	}
	n := &node{mode: uint16(st.Mode), uid: st.Uid, gid: st.Gid, mtime: uint64(st.Mtim.Sec), nsec: uint32(st.Mtim.Nsec),
		nlink: 1, ino: uint32(len(w.nodes) + 1), parent: parent}
	if parent == nil {
		n.parent = n
	}
	w.nodes = append(w.nodes, n)
	if !dir && st.Nlink > 1 {
		w.links[key] = n
	}
	var err error
	if n.xattrs, err = attributes(path); err != nil {
		return nil, err
	}
	return n, w.content(n, path, &st)
}

// content writes a file's data, or notes what stands for it.
func (w *writer) content(n *node, path string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return w.regular(n, path, st.Size)
	case unix.S_IFDIR:
		return w.directory(n, path)
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		n.size = uint64(len(to))
		if inodeSize+len(n.xattrs)+len(to) <= blockSize {
			n.inline = []byte(to)
			return nil
		}
		return w.data(n, bytes.NewReader([]byte(to)))
	case unix.S_IFCHR, unix.S_IFBLK:
		major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
		n.rdev = minor&0xff | major<<8 | minor&^0xff<<12 // the kernel's new_encode_dev
	}
	return nil
}

func (w *writer) regular(n *node, path string, size int64) error {
	if size == 0 {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	n.size = uint64(size)
	return w.data(n, io.LimitReader(f, size))
}

// data writes content from the next block on. Blocks of zeros stay holes. A
// file that has become shorter meanwhile ends in zeros.
func (w *writer) data(n *node, r io.Reader) error {
	at := w.align(blockSize)
	if at/blockSize+int64(n.size/blockSize)+1 > math.MaxUint32 {
		return errors.New("the image would be larger than 16 TiB")
	}
	n.block = uint32(at / blockSize)
	w.next = at + int64(n.size)
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		m, err := io.ReadFull(r, w.buf)
		for from := 0; from < m; from += blockSize {
			part := w.buf[from:min(from+blockSize, m)]
			if zero(part) {
				continue
			}
			if _, err := w.out.WriteAt(part, at+int64(from)); err != nil {
				return err
			}
		}
		at += int64(m)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

var zeros [blockSize]byte

func zero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// directory takes a directory's entries in, sorted as os.ReadDir gives them:
// by bytes.
func (w *writer) directory(n *node, path string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	es, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	n.nlink = 2
	for _, e := range es {
		c, err := w.add(filepath.Join(path, e.Name()), n)
		if err != nil {
			return err
		}
		if c.mode&unix.S_IFMT == unix.S_IFDIR {
			n.nlink++
		}
		n.children = append(n.children, entry{e.Name(), c})
	}
	return nil
}

// place gives every inode its place. What stands behind an inode inline may
// not cross a block.
func (w *writer) place() {
	begin := w.next
	for _, n := range w.nodes {
		w.align(inodeSize)
		size := int64(inodeSize + len(n.xattrs) + len(n.inline))
		if len(n.inline) > 0 && (w.next%blockSize)+size > blockSize {
			w.align(blockSize)
		}
		n.at = w.next - begin
		w.next += size
	}
	w.align(blockSize)
}

func (n *node) nid() uint64 { return uint64(n.at / slotSize) }

// directories writes the blocks of all directories.
func (w *writer) directories() error {
	for _, n := range w.nodes {
		if n.mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		text := n.dirents()
		n.size = uint64(len(text))
		at := w.align(blockSize)
		n.block = uint32(at / blockSize)
		if _, err := w.out.WriteAt(text, at); err != nil {
			return err
		}
		w.next = at + int64(len(text))
	}
	return nil
}

// dirents is a directory's content: blocks that each begin with their entries
// and end with their names. "." and ".." are sorted in among the others.
func (n *node) dirents() []byte {
	all := make([]entry, 0, len(n.children)+2)
	special := []entry{{".", n}, {"..", n.parent}}
	for _, c := range n.children {
		for len(special) > 0 && special[0].name < c.name {
			all, special = append(all, special[0]), special[1:]
		}
		all = append(all, c)
	}
	all = append(all, special...)

	var out []byte
	for len(all) > 0 {
		used, k := 0, 0
		for k < len(all) && used+direntSize+len(all[k].name) <= blockSize {
			used += direntSize + len(all[k].name)
			k++
		}
		block := make([]byte, 0, blockSize)
		name := k * direntSize
		for _, e := range all[:k] {
			block = le.AppendUint64(block, e.node.nid())
			block = le.AppendUint16(block, uint16(name))
			block = append(block, fileType(e.node.mode), 0)
			name += len(e.name)
		}
		for _, e := range all[:k] {
			block = append(block, e.name...)
		}
		if all = all[k:]; len(all) > 0 {
			block = append(block, zeros[:blockSize-len(block)]...)
		}
		out = append(out, block...)
	}
	return out
}

func fileType(mode uint16) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

// metadata writes the inodes.
func (w *writer) metadata(meta int64) error {
	var run []byte // written in pieces
	at := meta
	for _, n := range w.nodes {
		run = append(run, make([]byte, meta+n.at-at-int64(len(run)))...)
		run = append(run, n.inode()...)
		if len(run) > 1<<20 {
			if _, err := w.out.WriteAt(run, at); err != nil {
				return err
			}
			at += int64(len(run))
			run = run[:0]
		}
	}
	_, err := w.out.WriteAt(run, at)
	return err
}

func (n *node) inode() []byte {
	layout, union := flatPlain, n.block
	if len(n.inline) > 0 {
		layout = flatInline
	}
	if m := n.mode & unix.S_IFMT; m == unix.S_IFCHR || m == unix.S_IFBLK {
		union = n.rdev
	}
	b := make([]byte, inodeSize, inodeSize+len(n.xattrs)+len(n.inline))
	le.PutUint16(b[0:], uint16(1|layout<<1)) // the 64-byte form
	le.PutUint16(b[2:], attributeCount(n.xattrs))
	le.PutUint16(b[4:], n.mode)
	le.PutUint64(b[8:], n.size)
	le.PutUint32(b[16:], union)
	le.PutUint32(b[20:], n.ino)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], n.mtime)
	le.PutUint32(b[40:], n.nsec)
	le.PutUint32(b[44:], n.nlink)
	return append(append(b, n.xattrs...), n.inline...)
}

// super writes the superblock, last: an image without one is none.
func (w *writer) super(root *node, meta int64) error {
	blocks := w.align(blockSize) / blockSize
	if blocks > math.MaxUint32 {
		return fmt.Errorf("the image has %d blocks: too many", blocks)
	}
	if err := w.out.Truncate(w.next); err != nil {
		return err
	}
	b := make([]byte, 128)
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatMtime)
	b[12] = 12 // bits of the block size
	le.PutUint16(b[14:], uint16(root.nid()))
	le.PutUint64(b[16:], uint64(len(w.nodes)))
	le.PutUint64(b[24:], uint64(time.Now().Unix()))
	le.PutUint32(b[36:], uint32(blocks))
	le.PutUint32(b[40:], uint32(meta/blockSize))
	copy(b[64:80], "wharf")
	_, err := w.out.WriteAt(b, superAt)
	return err
}
