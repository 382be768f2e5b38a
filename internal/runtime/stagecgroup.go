package runtime

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mountCgroup shows v1 hierarchies (or several of them and v2) below a small
// tmpfs, as hosts do.
func (s *stage) mountCgroup(m *StageMount) error {
	top, err := newMount("tmpfs", "cgroup", []string{"mode=755", "size=64k"}, m.Attr&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if err := s.place(&StageMount{Dest: m.Dest, Prop: m.Prop}, top); err != nil {
		return err
	}
	for i := range m.Cgroup {
		v := &m.Cgroup[i]
		if err := s.cgroupView(m, v); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		for _, l := range v.Links {
			if err := unix.Symlinkat(v.Name, top, l); err != nil && err != unix.EEXIST {
				return fmt.Errorf("link %s: %w", l, err)
			}
		}
	}
	if m.Attr&unix.MOUNT_ATTR_RDONLY == 0 {
		return nil
	}
	return setAttr(top, unix.MOUNT_ATTR_RDONLY, 0, 0, 0)
}

func (s *stage) cgroupView(m *StageMount, v *CgroupView) error {
	one := StageMount{Slot: v.Slot, Dest: m.Dest + "/" + v.Name, Attr: m.Attr}
	if v.Slot < 0 {
		one.FS, one.Source, one.Data = "cgroup", "cgroup", []string{v.Data}
		if v.V2 {
			one.FS, one.Data = "cgroup2", nil
		}
	}
	fd, own, err := s.source(&one)
	if err != nil {
		return err
	}
	if own {
		defer unix.Close(fd)
	}
	return s.place(&one, fd)
}
