package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Where tar keeps extended attributes (as GNU tar, star and Docker do).
const paxXattr = "SCHILY.xattr."

// wantedXattr selects what belongs to a file's content: file capabilities and
// users' attributes. The others are the kernel's or the file system's.
func wantedXattr(name string) bool {
	return name == capXattr || strings.HasPrefix(name, "user.")
}

// xattrs adds fd's attributes to h. A file system without any is no error.
func (w *walk) xattrs(fd int, h *tar.Header) error {
	p := procPath(fd)
	size, err := unix.Listxattr(p, nil)
	if noXattrs(err) || size == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	list := make([]byte, size+256)
	if size, err = unix.Listxattr(p, list); err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range strings.Split(string(list[:size]), "\x00") {
		if !wantedXattr(name) {
			continue
		}
		v := make([]byte, 65536) // the kernel's limit, XATTR_SIZE_MAX
		n, err := unix.Getxattr(p, name, v)
		if noXattrs(err) {
			continue // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if v = v[:n]; name == capXattr {
			var ok bool
			if v, ok = capOut(w.tree.ids, v); !ok {
				continue
			}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(v)
	}
	return nil
}

func noXattrs(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOENT)
}
