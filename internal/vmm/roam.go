package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// roamer is a tap that changes its network while QEMU has it open. A tap that was
// deleted leaves its open file without one, and the file takes another one by its
// name (TUNSETIFF) in the network namespace that /dev/net/tun was opened in. So it
// is opened in the daemon's and its first tap moved to a namespace of nobody's.
type roamer struct {
	tap     *os.File
	nobody  *os.File // a netlink socket in that namespace
	name    string
	hdrSize int
}

// roamerName is what taps of roamers are called: the kernel puts a number.
const roamerName = "wvready%d"

func newRoamer() (_ *roamer, err error) {
	f, name, err := openTap(roamerName)
	if err != nil {
		return nil, err
	}
	r := &roamer{tap: f, name: name}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.hdrSize, err = unix.IoctlGetInt(int(f.Fd()), unix.TUNGETVNETHDRSZ); err != nil {
		return nil, os.NewSyscallError("TUNGETVNETHDRSZ", err)
	}
	r.nobody, err = sendAway(name)
	return r, err
}

// Offloads (TUN_F_* of linux/if_tun.h) are what the guest's driver takes, which
// is all that QEMU's device offers with a tap behind it: checksums, segments of
// TCP with either IP and ECN; UFO where this kernel has it.
const (
	offloads   = 0x01 | 0x02 | 0x04 | 0x08
	offloadUFO = 0x10
)

// become makes the tap another one, which is there already.
func (r *roamer) become(name string) error {
	// As QEMU has set it since.
	size, err := unix.IoctlGetInt(int(r.tap.Fd()), unix.TUNGETVNETHDRSZ)
	if err == nil {
		r.hdrSize = size
	}
	if err := deleteLink(r.nobody, r.name); err != nil {
		return err
	}
	if _, err := attachTap(int(r.tap.Fd()), name); err != nil {
		return err
	}
	fd := int(r.tap.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, r.hdrSize); err != nil {
		return os.NewSyscallError("TUNSETVNETHDRSZ", err)
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads|offloadUFO) != nil {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
			return os.NewSyscallError("TUNSETOFFLOAD", err)
		}
	}
	return nil
}

func (r *roamer) close() {
	_ = r.tap.Close()
	if r.nobody != nil {
		_ = r.nobody.Close()
	}
}

// sendAway moves a link into a network namespace of nobody's, and returns a
// netlink socket in it.
func sendAway(name string) (*os.File, error) {
	type result struct {
		socket, ns int
		err        error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		r := result{-1, -1, os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))}
		if r.err == nil {
			r.ns, r.err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if r.err == nil {
			r.socket, r.err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		}
		done <- r
	}()
	r := <-done
	if r.ns >= 0 {
		defer unix.Close(r.ns)
	}
	if r.err != nil {
		return nil, fmt.Errorf("namespace of a tap: %w", r.err)
	}
	there := os.NewFile(uintptr(r.socket), "netlink")
	here, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("socket", err), there.Close())
	}
	defer unix.Close(here)
	ns := binary.NativeEndian.AppendUint32(nil, uint32(r.ns))
	if err := linkRequest(here, unix.RTM_NEWLINK, name, attribute(unix.IFLA_NET_NS_FD, ns)); err != nil {
		return nil, errors.Join(fmt.Errorf("move tap %s: %w", name, err), there.Close())
	}
	return there, nil
}

// deleteLink deletes the link name of the socket's network namespace.
func deleteLink(socket *os.File, name string) error {
	if err := linkRequest(int(socket.Fd()), unix.RTM_DELLINK, name, nil); err != nil {
		return fmt.Errorf("delete tap %s: %w", name, err)
	}
	return nil
}

// attribute is one of netlink's, padded (netlink(7)).
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// linkRequest asks for something about the link name, and waits until it is done
// (rtnetlink(7)).
func linkRequest(socket int, kind uint16, name string, more []byte) error {
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	body = append(body, more...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence, port: one request at a time
	b = append(b, body...)
	if err := unix.Sendto(socket, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(socket, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
			return errors.New("an answer that is none")
		}
		if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
			return unix.Errno(-code)
		}
		return nil
	}
}
