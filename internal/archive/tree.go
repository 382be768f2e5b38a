package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Tree streams a directory with everything below it: "./" with the
// directory's own attributes first, then "./name". Holes of files do not
// travel (GNU tar's sparse format 1.0). What is mounted below is left out.
// Unpacked by Put with Top it is the same directory again.
func (*Archive) Tree(ctx context.Context, root model.Root) (io.ReadCloser, error) {
	t, err := openTree(root)
	if err != nil {
		return nil, err
	}
	w := newWalk(ctx, t, true)
	return stream(ctx, func(out io.Writer) error {
		defer t.close()
		w.tar, w.raw = tar.NewWriter(out), out
		if err := w.entry(t.fd, ".", "/"); err != nil {
			return err
		}
		return w.tar.Close()
	}), nil
}

// top gives the destination what its own entry says.
func (u *unpack) top(h *tar.Header) error {
	if !u.opts.Top || h.Typeflag != tar.TypeDir {
		return nil
	}
	if err := u.enter(u.dest); err != nil {
		return err
	}
	u.topAt = h.ModTime
	return u.attributes(".", h)
}

// topTime sets the destination's time when nothing more comes into it.
func (u *unpack) topTime() error {
	if u.topAt.IsZero() {
		return nil
	}
	fd, err := u.tree.at(u.dest, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return notThere(u.dest, err)
	}
	defer unix.Close(fd)
	return setTime(procPath(fd), u.topAt)
}

// extent is a stretch of a file that is no hole.
type extent struct{ at, size int64 }

// maxExtents bounds the map of a sparse file; more are sent with the holes
// between them.
const maxExtents = 4096

// extents finds the data of a file; nil for one that has no holes worth it.
func extents(fd int, st *unix.Stat_t) []extent {
	if st.Blocks*512 >= st.Size || st.Size < 64<<10 {
		return nil
	}
	all := []extent{}
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil
		}
		end, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil || len(all) == maxExtents {
			return nil
		}
		end = min(end, st.Size)
		if data < end {
			all = append(all, extent{data, end - data})
		}
		at = end
	}
	if n := len(all); n == 0 || all[n-1].at+all[n-1].size < st.Size {
		all = append(all, extent{st.Size, 0}) // tar(1) takes the size from the last
	}
	return all
}

// sparse writes a file without its holes. archive/tar reads this format and
// does not write it, so the two headers are made here.
func (w *walk) sparse(fd int, h *tar.Header, all []extent, inside string) error {
	if err := w.tar.Flush(); err != nil {
		return w.wrap(inside, err)
	}
	m := &strings.Builder{}
	_, _ = fmt.Fprintf(m, "%d\n", len(all))
	size := int64(0)
	for _, e := range all {
		_, _ = fmt.Fprintf(m, "%d\n%d\n", e.at, e.size)
		size += e.size
	}
	pad(m)
	size += int64(m.Len())
	head, err := sparseHeaders(h, size)
	if err != nil {
		return w.wrap(inside, err)
	}
	if _, err := io.WriteString(w.raw, head+m.String()); err != nil {
		return w.wrap(inside, err)
	}
	for _, e := range all {
		if err := w.stretch(fd, e, inside); err != nil {
			return err
		}
	}
	_, err = w.raw.Write(make([]byte, -size&511))
	return w.wrap(inside, err)
}

// stretch writes one extent; where the file shrank meanwhile, zeros.
func (w *walk) stretch(fd int, e extent, inside string) error {
	for e.size > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		b := w.buf[:min(e.size, int64(len(w.buf)))]
		n, err := unix.Pread(fd, b, e.at)
		if err != nil {
			return w.wrap(inside, err)
		}
		if n == 0 {
			n = len(b)
			clear(b)
		}
		if _, err := w.raw.Write(b[:n]); err != nil {
			return w.wrap(inside, err)
		}
		e.at, e.size = e.at+int64(n), e.size-int64(n)
	}
	return nil
}

func pad(b *strings.Builder) { b.WriteString(strings.Repeat("\x00", -b.Len()&511)) }

// sparseHeaders are the extended header, which has all that matters, and the
// plain one, of a file whose content in the tar is size bytes.
func sparseHeaders(h *tar.Header, size int64) (string, error) {
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
		"size": strconv.FormatInt(size, 10), "uid": strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid),
		"mtime": fmt.Sprintf("%d.%09d", h.ModTime.Unix(), h.ModTime.Nanosecond()),
	}
	if h.ModTime.Unix() < 0 {
		records["mtime"] = strconv.FormatInt(h.ModTime.Unix(), 10)
	}
	for k, v := range h.PAXRecords {
		records[k] = v
	}
	keys := make([]string, 0, len(records))
	for k := range records {
		if strings.ContainsAny(k, "=\n") {
			return "", fmt.Errorf("attribute name %q", k)
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	x := &strings.Builder{}
	for _, k := range keys {
		x.WriteString(record(k, records[k]))
	}
	n := int64(x.Len())
	pad(x)
	return ustar("PaxHeaders/sparse", 'x', 0o600, n) + x.String() + ustar("GNUSparseFile/sparse", '0', h.Mode, min(size, 1<<33-1)), nil
}

// record is "length key=value\n", where length counts itself.
func record(k, v string) string {
	rest := " " + k + "=" + v + "\n"
	n := len(rest)
	for n != len(rest)+len(strconv.Itoa(n)) {
		n = len(rest) + len(strconv.Itoa(n))
	}
	return strconv.Itoa(n) + rest
}

// ustar is a plain header block (POSIX.1-1988).
func ustar(name string, typ byte, mode, size int64) string {
	var b [512]byte
	copy(b[:100], name)
	copy(b[100:], fmt.Sprintf("%07o\x000000000\x000000000\x00%011o\x0000000000000\x00        ", mode&0o7777, size))
	b[156] = typ
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(b[:])
}
