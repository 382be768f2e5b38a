package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity is who the process runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// maxUserFile bounds what is read of an image's passwd and group files.
const maxUserFile = 16 << 20

const maxID = 1<<31 - 1

// lookupUser finds a user in passwd and group files, by Docker's rules: a
// number is always an id and needs no entry; a name needs one; without a
// group the user's own applies, with the further groups that list the name.
func lookupUser(passwd, group []byte, spec string, add []string) (identity, error) {
	user, grp, _ := strings.Cut(spec, ":")
	id := identity{home: "/"}
	name := ""
	num, isNum, err := number(user)
	if err != nil {
		return id, err
	}
	entry, found := findEntry(passwd, func(f [][]byte) bool {
		uid, ok := field(f, 2)
		if user == "" || isNum {
			return ok && uid == num
		}
		return ok && string(f[0]) == user
	})
	switch {
	case found:
		name = string(entry[0])
		id.uid, _ = field(entry, 2)
		id.gid, _ = field(entry, 3)
		if len(entry) > 5 && len(entry[5]) > 0 {
			id.home = string(entry[5])
		}
	case isNum:
		id.uid = num
	case user != "":
		return id, fmt.Errorf("unable to find user %s: no matching entries in passwd file", user)
	}
	if grp != "" {
		if id.gid, err = lookupGroup(group, grp); err != nil {
			return id, err
		}
	} else if name != "" {
		id.groups = memberships(group, name)
	}
	for _, g := range add {
		gid, err := lookupGroup(group, g)
		if err != nil {
			return id, err
		}
		id.groups = append(id.groups, gid)
	}
	id.groups = unique(append([]uint32{id.gid}, id.groups...))
	return id, nil
}

func lookupGroup(group []byte, name string) (uint32, error) {
	num, isNum, err := number(name)
	if err != nil || isNum {
		return num, err
	}
	entry, found := findEntry(group, func(f [][]byte) bool {
		_, ok := field(f, 2)
		return ok && string(f[0]) == name
	})
	if !found {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	gid, _ := field(entry, 2)
	return gid, nil
}

// maxGroups is what setgroups(2) takes (NGROUPS_MAX).
const maxGroups = 65536

func memberships(group []byte, name string) (gids []uint32) {
	findEntry(group, func(f [][]byte) bool {
		gid, ok := field(f, 2)
		if !ok || len(f) < 4 {
			return false
		}
		for _, m := range bytes.Split(f[3], []byte(",")) {
			if string(m) == name {
				gids = append(gids, gid)
				break
			}
		}
		return len(gids) >= maxGroups-1
	})
	return gids
}

// number parses an id. A number outside of the range is an error, anything
// else a name.
func number(s string) (n uint32, ok bool, err error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return 0, false, fmt.Errorf("%s: uids and gids must be in range 0-%d", s, maxID)
		}
		return 0, false, nil
	}
	if v < 0 || v > maxID {
		return 0, false, fmt.Errorf("%s: uids and gids must be in range 0-%d", s, maxID)
	}
	return uint32(v), true, nil
}

// findEntry calls match with the fields of each line until it says true.
func findEntry(file []byte, match func([][]byte) bool) ([][]byte, bool) {
	for len(file) > 0 {
		var line []byte
		line, file, _ = bytes.Cut(file, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		f := bytes.Split(line, []byte(":"))
		if match(f) {
			return f, true
		}
	}
	return nil, false
}

func field(f [][]byte, i int) (uint32, bool) {
	if i >= len(f) {
		return 0, false
	}
	v, err := strconv.ParseUint(string(f[i]), 10, 31)
	return uint32(v), err == nil
}

func unique(in []uint32) []uint32 {
	seen := make(map[uint32]bool, len(in))
	out := in[:0]
	for _, g := range in {
		if !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	return out
}

// readSmall reads a file of the image, which may be anything: a device, a
// fifo, endless.
func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err == nil && len(data) > maxUserFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxUserFile)
	}
	return data, err
}

// identify finds out who to be.
func (s *stage) identify() error {
	u := &s.Stage.User
	if !u.Lookup {
		s.user = identity{uid: u.UID, gid: u.GID, groups: u.Groups, home: "/"}
		if passwd, err := readSmall("/etc/passwd"); err == nil {
			if id, err := lookupUser(passwd, nil, strconv.FormatUint(uint64(u.UID), 10), nil); err == nil {
				s.user.home = id.home
			}
		}
		return nil
	}
	passwd, err := readSmall("/etc/passwd")
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return &ExecError{Code: 128, Msg: "user " + u.Name + ": " + err.Error()}
	}
	group, err := readSmall("/etc/group")
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return &ExecError{Code: 128, Msg: "group of user " + u.Name + ": " + err.Error()}
	}
	s.user, err = lookupUser(passwd, group, u.Name, u.GroupAdd)
	if err != nil {
		return &ExecError{Code: 128, Msg: err.Error()}
	}
	s.user.groups = unique(append(s.user.groups, u.Groups...))
	if s.user.uid != 0 && s.Stage.Caps != nil {
		// What execve would make of root's sets for another user; Docker
		// does the same. Ambient ones were asked for and stay.
		c := *s.Stage.Caps
		c.Permitted, c.Effective = c.Ambient, c.Ambient
		c.Inheritable = c.Ambient
		s.Stage.Caps = &c
	}
	return nil
}
