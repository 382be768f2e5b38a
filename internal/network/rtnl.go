package network

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtnl is a route netlink socket that sends several requests in one system
// call. The kernel answers them in order before the send returns, so a batch
// costs one round trip. It belongs to the network namespace in which it was
// opened, for good.
type rtnl struct {
	mu sync.Mutex
	fd int // guarded by mu
}

// openRTNL opens a socket in the calling thread's network namespace.
func openRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	// Both only make errors readable; old kernels do without.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &rtnl{fd: fd}, nil
}

func (c *rtnl) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// request is one message and what it does, for its error.
type request struct {
	*nl.NetlinkRequest
	what     string
	optional bool // EAFNOSUPPORT is no failure
}

func newRequest(what string, kind, flags int) request {
	return request{NetlinkRequest: nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK), what: what}
}

// batchError is the failure of one message of a batch; the ones after it were
// still carried out.
type batchError struct {
	what string
	text string // the kernel's own words, may be empty
	err  syscall.Errno
}

func (e *batchError) Error() string {
	if e.text != "" {
		return fmt.Sprintf("%s: %s (%v)", e.what, e.text, e.err)
	}
	return fmt.Sprintf("%s: %v", e.what, e.err)
}

func (e *batchError) Unwrap() error { return e.err }

// do sends the requests together and returns the first error among the
// answers.
func (c *rtnl) do(reqs ...request) error {
	if len(reqs) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []byte
	bySeq := make(map[uint32]request, len(reqs))
	for _, r := range reqs {
		out = append(out, r.Serialize()...)
		bySeq[r.Seq] = r
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink send", err)
	}
	var first error
	buf := make([]byte, 16384)
	for len(bySeq) > 0 {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("netlink receive", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("netlink answer: %w", err)
		}
		for _, m := range msgs {
			r, ours := bySeq[m.Header.Seq]
			if !ours || m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
				continue
			}
			delete(bySeq, m.Header.Seq)
			code := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if code != 0 && first == nil && !(r.optional && code == unix.EAFNOSUPPORT) {
				first = &batchError{what: r.what, text: ackText(m), err: code}
			}
		}
	}
	return first
}

// ackText is the kernel's explanation in an error answer, if it gave one
// (NLMSGERR_ATTR_MSG, behind the capped copy of the request's header).
func ackText(m syscall.NetlinkMessage) string {
	const head = 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Data) < head {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(m.Data[head:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return ""
}

// index finds a link by name in the socket's namespace without a netlink
// round trip. ENODEV: there is none.
func (c *rtnl) index(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("link name %q: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := unix.IoctlIfreq(c.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}
