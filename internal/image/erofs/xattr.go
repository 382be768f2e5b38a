package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// attributeHeader stands before an inode's own attributes.
const attributeHeader = 12

// prefixes of names have numbers.
var prefixes = []struct {
	name  string
	index byte
	whole bool // the whole name, not a prefix
}{
	{"user.", 1, false}, {"system.posix_acl_access", 2, true}, {"system.posix_acl_default", 3, true}, {"trusted.", 4, false}, {"security.", 6, false},
}

// attributes reads a file's extended attributes and encodes them as they stand
// behind its inode. An overlay's own are no part of what it shows; those of
// kinds that EROFS has no number for are left out.
func attributes(path string) ([]byte, error) {
	list, err := read(path, func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if len(list) == 0 || err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	var out []byte
	for _, name := range strings.Split(string(bytes.TrimRight(list, "\x00")), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		for _, p := range prefixes {
			rest, ok := strings.CutPrefix(name, p.name)
			if !ok || p.whole != (rest == "") {
				continue
			}
			value, err := read(path, func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
			if errors.Is(err, unix.ENODATA) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if len(rest) > 255 || len(value) > 65535 {
				return nil, fmt.Errorf("%s: attribute %s is too long for the image", path, name)
			}
			out = append(out, byte(len(rest)), p.index)
			out = le.AppendUint16(out, uint16(len(value)))
			out = append(append(out, rest...), value...)
			for len(out)%4 != 0 {
				out = append(out, 0)
			}
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	if len(out) > 4*65534 {
		return nil, fmt.Errorf("%s: its attributes are too long for the image", path)
	}
	return append(make([]byte, attributeHeader), out...), nil
}

// attributeCount is the inode's field for the length of its attributes.
func attributeCount(encoded []byte) uint16 {
	if len(encoded) == 0 {
		return 0
	}
	return uint16((len(encoded)-attributeHeader)/4 + 1)
}

// read calls get until its buffer is large enough.
func read(path string, get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if n == 0 || err != nil {
			return nil, wrapped(path, err)
		}
		b := make([]byte, n)
		n, err = get(b)
		if errors.Is(err, unix.ERANGE) {
			continue // it has grown meanwhile
		}
		return b[:max(n, 0)], wrapped(path, err)
	}
}

func wrapped(path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "read attributes of", Path: path, Err: err}
}
