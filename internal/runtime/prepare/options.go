package prepare

import (
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are a mount's options, sorted by who needs them.
type mountOptions struct {
	bind, rbind      bool
	set, clear       uint64 // MOUNT_ATTR_*
	recSet, recClear uint64
	prop, recProp    uint64 // MS_SHARED ...
	copyUp           bool
	idmap, ridmap    bool
	data             []string // for the file system
	sbFlags          []string // sync, dirsync, ...: of the file system, without meaning for a bind
}

type attrWord struct {
	bit   uint64
	clear bool
}

// attrWords are mount(8)'s words for what is per mount. With an "r" in front
// they apply to everything below too.
var attrWords = map[string]attrWord{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "atime": {unix.MOUNT_ATTR_NOATIME, true},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, false}, "nostrictatime": {unix.MOUNT_ATTR_STRICTATIME, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
}

var superWords = map[string]bool{
	"sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true, "mand": true, "nomand": true,
	"iversion": true, "noiversion": true, "silent": true, "loud": true,
}

// parseOptions sorts a mount's options. bindType: the mount is a bind by its
// type.
func parseOptions(m *specs.Mount) (mountOptions, error) {
	o := mountOptions{bind: m.Type == "bind"}
	for _, w := range m.Options {
		if err := o.word(w); err != nil {
			return o, err
		}
	}
	if o.set&unix.MOUNT_ATTR_NOATIME != 0 && o.set&unix.MOUNT_ATTR_STRICTATIME != 0 {
		return o, refuse("mount %s: noatime and strictatime exclude each other", m.Destination)
	}
	return o, nil
}

func (o *mountOptions) word(w string) error {
	if a, ok := attrWords[w]; ok {
		turn(&o.set, &o.clear, a)
		return nil
	}
	if a, ok := attrWords[strings.TrimPrefix(w, "r")]; ok && w != "ro" && w != "rw" {
		turn(&o.recSet, &o.recClear, a)
		return nil
	}
	if p, rec, ok := propagation(w); ok {
		if rec {
			o.recProp = p
		} else {
			o.prop = p
		}
		return nil
	}
	switch w {
	case "", "defaults", "relatime", "norelatime":
	case "rrelatime", "rnorelatime":
		o.recClear |= unix.MOUNT_ATTR__ATIME
	case "bind":
		o.bind = true
	case "rbind":
		o.bind, o.rbind = true, true
	case "tmpcopyup":
		o.copyUp = true
	case "idmap":
		o.idmap = true
	case "ridmap":
		o.idmap, o.ridmap = true, true
	case "remount":
		return refuse("mount option %q", w)
	default:
		if superWords[w] {
			o.sbFlags = append(o.sbFlags, w)
		} else {
			o.data = append(o.data, w)
		}
	}
	return nil
}

func turn(set, clear *uint64, a attrWord) {
	if a.clear {
		*set &^= a.bit
		*clear |= a.bit
		return
	}
	*set |= a.bit
	*clear &^= a.bit
}

// propagation knows mount propagation's words.
func propagation(w string) (flag uint64, recursive, ok bool) {
	name := strings.TrimPrefix(w, "r")
	switch name {
	case "private":
		flag = unix.MS_PRIVATE
	case "shared":
		flag = unix.MS_SHARED
	case "slave":
		flag = unix.MS_SLAVE
	case "unbindable":
		flag = unix.MS_UNBINDABLE
	default:
		return 0, false, false
	}
	return flag, name != w, true
}

// rootPropagation is what is left to do for the root: its mount is new and
// private, so private and slave are so already (and must not reach binds
// below that are to be slaves).
func rootPropagation(flag uint64, rec bool) uint64 {
	switch flag {
	case unix.MS_SHARED, unix.MS_UNBINDABLE:
		if rec {
			flag |= unix.MS_REC
		}
		return flag
	}
	return 0
}

// MountOptions lists the words that mounts understand, for "features".
func MountOptions() []string {
	out := []string{"bind", "rbind", "idmap", "ridmap", "tmpcopyup", "relatime", "norelatime", "defaults"}
	for w := range attrWords {
		out = append(out, w, "r"+w)
	}
	for w := range superWords {
		out = append(out, w)
	}
	for _, w := range []string{"private", "shared", "slave", "unbindable"} {
		out = append(out, w, "r"+w)
	}
	sort.Strings(out)
	return out
}

// Capabilities lists the capabilities that are known by name.
func Capabilities() []string {
	out := make([]string, len(capNames))
	for i, n := range capNames {
		out[i] = "CAP_" + n
	}
	return out
}
