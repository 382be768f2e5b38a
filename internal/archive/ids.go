package archive

import (
	"encoding/binary"

	"wharf/internal/model"
)

// nobody stands for an id that has no number on the other side.
const nobody = 65534

// out is the container's id of what the file system shows.
func out(r model.IDRange, id uint32) int {
	if !r.Mapped() {
		return int(id)
	}
	if id < r.Host || id-r.Host >= r.Size {
		return nobody
	}
	return int(id - r.Host)
}

// in is the file system's id of the container's.
func in(r model.IDRange, id int) uint32 {
	if id < 0 || int64(id) > 1<<32-2 {
		id = nobody
	}
	if !r.Mapped() {
		return uint32(id)
	}
	if uint32(id) >= r.Size {
		if id = nobody; r.Size <= nobody {
			id = 0
		}
	}
	return r.Host + uint32(id)
}

// The versions of security.capability (linux/capability.h). The third carries
// the user id on the host of the root that the capabilities count for.
const (
	capXattr     = "security.capability"
	capRevision  = 0xff000000
	capRevision2 = 0x02000000
	capRevision3 = 0x03000000
	capSize2     = 20
	capSize3     = 24
)

// capOut turns file capabilities into the container's view: those that count
// for its own root become the plain second version. ok is false for what has
// no meaning inside.
func capOut(r model.IDRange, v []byte) (_ []byte, ok bool) {
	if len(v) == capSize2 {
		return v, !r.Mapped() // counts for the host's root only
	}
	if len(v) != capSize3 || binary.LittleEndian.Uint32(v)&capRevision != capRevision3 {
		return nil, false
	}
	root := binary.LittleEndian.Uint32(v[20:])
	if r.Mapped() {
		if root < r.Host || root-r.Host >= r.Size {
			return nil, false
		}
		root -= r.Host
	}
	w := append([]byte(nil), v...)
	if root == 0 {
		return setRevision(w[:capSize2], capRevision2), true
	}
	binary.LittleEndian.PutUint32(w[20:], root)
	return w, true
}

// capIn is the way back.
func capIn(r model.IDRange, v []byte) (_ []byte, ok bool) {
	switch {
	case len(v) == capSize2 && binary.LittleEndian.Uint32(v)&capRevision == capRevision2:
		if !r.Mapped() {
			return v, true
		}
		w := setRevision(append(append([]byte(nil), v...), 0, 0, 0, 0), capRevision3)
		binary.LittleEndian.PutUint32(w[20:], r.Host)
		return w, true
	case len(v) == capSize3 && binary.LittleEndian.Uint32(v)&capRevision == capRevision3:
		root := binary.LittleEndian.Uint32(v[20:])
		if !r.Mapped() {
			return v, true
		}
		if root >= r.Size {
			return nil, false
		}
		w := append([]byte(nil), v...)
		binary.LittleEndian.PutUint32(w[20:], r.Host+root)
		return w, true
	}
	return nil, false
}

func setRevision(v []byte, rev uint32) []byte {
	flags := binary.LittleEndian.Uint32(v) &^ uint32(capRevision)
	binary.LittleEndian.PutUint32(v, flags|rev)
	return v
}
