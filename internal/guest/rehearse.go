package guest

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"wharf/api/guestapi"
)

// rehearse does, in a machine that is to be a template, what each of its
// clones would have to do: what it made and read is in their memory.
func (a *Agent) rehearse(c *call) error {
	if a.booted() != nil {
		return failed(guestapi.KindConflict, "the machine is an instance's already")
	}
	if err := a.spareAll(); err != nil {
		return err
	}
	if err := makeGroup(); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// makeGroup makes the container's control group: each of them gets memory of
// every controller's for every processor.
func makeGroup() error {
	dir := guestapi.CgroupRoot
	for _, name := range strings.Split(guestapi.CgroupPath, "/") {
		text, err := os.ReadFile(dir + "/cgroup.controllers")
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(text)) { // one that cannot be had is the runtime's to tell
			_ = os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0)
		}
		dir = filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// spareAll puts all interfaces but the first out of sight: moving one into
// another namespace waits for the kernel, and most instances have one.
func (a *Agent) spareAll() error {
	a.net.Lock()
	defer a.net.Unlock()
	l, err := a.networkLinks()
	if err != nil {
		return err
	}
	all, err := l.main.links()
	if err != nil {
		return err
	}
	first := true
	for i := range all {
		if len(all[i].perm) == 0 {
			continue
		}
		if first {
			first = false
			continue
		}
		if err := l.park(l.main, &all[i]); err != nil {
			return err
		}
	}
	return nil
}

// steps says where the time of a request went.
type steps []guestapi.Step

func (s *steps) add(name string) {
	*s = append(*s, guestapi.Step{Name: name, At: time.Now().UnixNano()})
}
