package prepare

import (
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
)

// defaultDevices is the spec's list ("Default Devices"), by path below /dev.
var defaultDevices = []runtime.Node{
	{Path: "null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

var defaultLinks = []runtime.Node{
	{Path: "fd", Mode: unix.S_IFLNK, Link: "/proc/self/fd"},
	{Path: "stdin", Mode: unix.S_IFLNK, Link: "/proc/self/fd/0"},
	{Path: "stdout", Mode: unix.S_IFLNK, Link: "/proc/self/fd/1"},
	{Path: "stderr", Mode: unix.S_IFLNK, Link: "/proc/self/fd/2"},
	{Path: "ptmx", Mode: unix.S_IFLNK, Link: "pts/ptmx"},
}

func (c *container) defaultNodes() []runtime.Node {
	nodes := append([]runtime.Node{}, defaultDevices...)
	nodes = append(nodes, defaultLinks...)
	if _, err := os.Stat("/proc/kcore"); err == nil {
		nodes = append(nodes, runtime.Node{Path: "core", Mode: unix.S_IFLNK, Link: "/proc/kcore"})
	}
	return nodes
}

// devices places the spec's devices: in the /dev that we make, or as nodes in
// whatever the root has there.
func (c *container) devices() error {
	dev := c.devIndex()
	if dev < 0 && !c.boundDev() {
		for _, n := range c.defaultNodes() {
			n.Path = "/dev/" + n.Path
			c.node(-1, n)
		}
	}
	for i := range c.spec.Linux.Devices {
		n, err := deviceNode(&c.spec.Linux.Devices[i])
		if err != nil {
			return err
		}
		if dev < 0 && c.boundDev() && strings.HasPrefix(n.Path, "/dev/") {
			continue // the host's /dev is shown; it has its own nodes
		}
		c.node(dev, n)
	}
	if dev >= 0 && !c.host.Mknod {
		c.bindNodes(dev)
	}
	return nil
}

// boundDev: the spec binds something on /dev.
func (c *container) boundDev() bool {
	for i := range c.st.Mounts {
		if m := &c.st.Mounts[i]; m.Dest == "/dev" && m.FS != "tmpfs" {
			return true
		}
	}
	return false
}

// node adds a device at an absolute path.
func (c *container) node(dev int, n runtime.Node) {
	if dev >= 0 && strings.HasPrefix(n.Path, "/dev/") {
		n.Path = strings.TrimPrefix(n.Path, "/dev/")
		nodes := &c.p.Mounts[dev].Nodes
		for i := range *nodes {
			if (*nodes)[i].Path == n.Path {
				(*nodes)[i] = n
				return
			}
		}
		*nodes = append(*nodes, n)
		return
	}
	if c.mapped && n.Mode&unix.S_IFMT != unix.S_IFLNK && n.Mode&unix.S_IFMT != unix.S_IFIFO {
		// A user namespace makes no device nodes: show the host's.
		c.hostMount(runtime.HostMount{Kind: runtime.HostBind, Source: n.Path, Dest: n.Path}, runtime.StageMount{Dest: n.Path})
		return
	}
	c.st.Nodes = append(c.st.Nodes, n)
}

// bindNodes replaces the device nodes of our /dev by binds of the host's,
// where we may not make any.
func (c *container) bindNodes(dev int) {
	nodes := c.p.Mounts[dev].Nodes
	for i := range nodes {
		kind := nodes[i].Mode & unix.S_IFMT
		if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
			continue
		}
		p := "/dev/" + nodes[i].Path
		nodes[i] = runtime.Node{Path: nodes[i].Path, Mode: unix.S_IFREG | 0o666}
		c.hostMount(runtime.HostMount{Kind: runtime.HostBind, Source: p, Dest: p}, runtime.StageMount{Dest: p})
	}
}

func deviceNode(d *specs.LinuxDevice) (runtime.Node, error) {
	n := runtime.Node{Path: path.Clean("/" + d.Path), Major: uint32(d.Major), Minor: uint32(d.Minor)}
	switch d.Type {
	case "c", "u":
		n.Mode = unix.S_IFCHR
	case "b":
		n.Mode = unix.S_IFBLK
	case "p":
		n.Mode = unix.S_IFIFO
	default:
		return n, refuse("device %s has unknown type %q", d.Path, d.Type)
	}
	if d.Path == "" || n.Path == "/" {
		return n, refuse("a device has no path")
	}
	mode := os.FileMode(0o666)
	if d.FileMode != nil {
		mode = *d.FileMode
	}
	n.Mode |= uint32(mode) & 0o7777
	if d.UID != nil {
		n.UID = *d.UID
	}
	if d.GID != nil {
		n.GID = *d.GID
	}
	return n, nil
}
