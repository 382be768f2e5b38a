package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// bootOp makes the machine an instance's.
func (a *Agent) bootOp(c *call) error {
	b := c.req.Boot
	if b == nil {
		return invalid("a boot has to describe the instance")
	}
	a.mu.Lock()
	if a.boot != nil {
		a.mu.Unlock()
		return failed(guestapi.KindConflict, "the machine is %s already", a.boot.ID)
	}
	a.boot = b
	a.mu.Unlock()
	// A boot that fails is not tried again in the same machine: what it left
	// half done is nobody's business to find out.
	var s steps
	if err := a.become(b, &s); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{Trace: s})
}

// become does what a Boot says. Interfaces are configured beside the mounts:
// both mostly wait for the kernel.
func (a *Agent) become(b *guestapi.Boot, s *steps) error {
	if err := a.freshen(&b.Fresh); err != nil {
		return err
	}
	s.add("clock, entropy, names")
	net := make(chan error, 1)
	a.spawn(func() { net <- a.interfaces(b.Interfaces) })
	err := a.late(b.Late, s)
	if err == nil {
		err = a.disks(b)
	}
	s.add("disks are mounted")
	if err = errors.Join(<-net, err); err != nil {
		return err
	}
	s.add("interfaces are configured")
	for name, value := range b.Sysctls {
		if err := sysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) late(n int, s *steps) error {
	if n == 0 {
		return nil
	}
	err := a.machine.late(n)
	s.add("late devices are found")
	return err
}

// disks mounts and writes what the host says.
func (a *Agent) disks(b *guestapi.Boot) error {
	for i := range b.Mounts {
		if err := a.mount(&b.Mounts[i]); err != nil {
			return err
		}
	}
	if b.Late > 0 {
		if err := answering(b.Mounts, lateTime); err != nil {
			return err
		}
	}
	for i := range b.Mounts {
		if err := fill(guestapi.LayersDir+"/0", &b.Mounts[i]); err != nil {
			return err
		}
	}
	for i := range b.Files {
		if err := writeFile(&b.Files[i]); err != nil {
			return err
		}
	}
	if b.Root != nil {
		return mountOverlay(b.Root)
	}
	return nil
}

// freshen gives the machine what no other has.
func (a *Agent) freshen(f *guestapi.Fresh) error {
	if len(f.Entropy) > 0 {
		if err := a.machine.addEntropy(f.Entropy); err != nil {
			return err
		}
	}
	if f.Time != 0 {
		if err := a.machine.setTime(f.Time); err != nil {
			return err
		}
	}
	if f.MachineID != "" {
		if err := os.WriteFile("/etc/machine-id", []byte(f.MachineID+"\n"), 0o444); err != nil {
			return err
		}
	}
	if f.Hostname != "" {
		if err := unix.Sethostname([]byte(f.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	return nil
}

func (a *Agent) freshenOp(c *call) error {
	if c.req.Fresh == nil {
		return invalid("there is nothing to freshen")
	}
	if err := a.freshen(c.req.Fresh); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// below refuses what is not below RunDir: the host names only places there.
func below(path string) (string, error) {
	clean := filepath.Clean(path)
	if !strings.HasPrefix(clean, guestapi.RunDir+"/") {
		return "", invalid("%q is not below %s", path, guestapi.RunDir)
	}
	return clean, nil
}

// writeFile writes a file in place: the container sees the same inode through
// a bind mount.
func writeFile(f *guestapi.File) error {
	path, err := below(f.Path)
	if err != nil {
		return err
	}
	mode := os.FileMode(f.Mode) & 0o7777
	if mode == 0 {
		mode = 0o644
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.Data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

func (a *Agent) file(c *call) error {
	if c.req.File == nil {
		return invalid("there is no file to write")
	}
	if err := writeFile(c.req.File); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// sysctl writes one of /proc/sys. Dots separate, unless there is a slash.
func sysctl(name, value string) error {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	if strings.Contains(name, "..") {
		return invalid("sysctl %q", name)
	}
	err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return invalid("sysctl %s: the machine's kernel does not have it", name)
	}
	return err
}
