package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// plug connects a network device to a tap, or takes its tap away.
func (m *machine) plug(conn *os.File, q monitorapi.Request) error {
	var p vmmapi.Plug
	if err := json.Unmarshal(q.Body, &p); err != nil {
		return &monitorapi.Failed{Kind: monitorapi.KindInvalid, Text: "plug request: " + err.Error()}
	}
	do := m.plugIn
	if p.Out {
		do = m.plugOut
	}
	if err := do(&p); err != nil {
		return m.gone(err)
	}
	return monitorapi.WriteJSON(conn, monitorapi.ReplyFrame, monitorapi.Reply{Version: monitorapi.Version})
}

// Names of what is made for a device: the tap, and the tap's port of the
// device's hub.
func tapID(device int) string  { return "tap" + strconv.Itoa(device) }
func portID(device int) string { return "port" + strconv.Itoa(device) }

func (m *machine) plugIn(p *vmmapi.Plug) error {
	f, err := OpenTap(p.Tap)
	if err != nil {
		return fmt.Errorf("tap %s: %w", p.Tap, err)
	}
	defer f.Close()
	if _, err := m.qmp.runWith("getfd", object("fdname", p.Tap), f); err != nil {
		return err
	}
	if _, err := m.qmp.run("netdev_add", object("type", "tap", "id", tapID(p.Device), "fd", p.Tap)); err != nil {
		_, _ = m.qmp.run("closefd", object("fdname", p.Tap))
		return err
	}
	port, _ := json.Marshal(map[string]any{"type": "hubport", "id": portID(p.Device), "hubid": p.Device, "netdev": tapID(p.Device)})
	if _, err := m.qmp.run("netdev_add", port); err != nil {
		_, _ = m.qmp.run("netdev_del", object("id", tapID(p.Device)))
		return err
	}
	return nil
}

func (m *machine) plugOut(p *vmmapi.Plug) error {
	if p.Direct {
		_, err := m.qmp.run("netdev_del", object("id", "net"+strconv.Itoa(p.Device)))
		return err
	}
	_, err := m.qmp.run("netdev_del", object("id", portID(p.Device)))
	_, err2 := m.qmp.run("netdev_del", object("id", tapID(p.Device)))
	return errors.Join(err, err2)
}

// object makes a JSON object of texts.
func object(pairs ...string) json.RawMessage {
	o := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		o[pairs[i]] = pairs[i+1]
	}
	b, _ := json.Marshal(o) // texts only
	return b
}

// looseTap makes a tap that is connected to nothing, in a network namespace of
// nobody's.
func looseTap(string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, os.NewSyscallError("unshare", err)}
			return
		}
		f, err := OpenTap("loose0")
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

// OpenTap opens a tap of this network namespace by its name and makes it go
// when nobody has it open any more.
func OpenTap(name string) (*os.File, error) {
	f, _, err := openTap(name)
	return f, err
}

// openTap also says what the tap is called: the kernel puts a number for "%d".
func openTap(pattern string) (f *os.File, name string, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	if name, err = attachTap(fd, pattern); err == nil {
		err = passing(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), name), name, nil
}

// attachTap gives an open /dev/net/tun its tap.
func attachTap(fd int, pattern string) (name string, err error) {
	req, err := unix.NewIfreq(pattern)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	}
	if err != nil {
		return "", err
	}
	return req.Name(), nil
}

// passing makes a tap go with its last descriptor.
func passing(fd int) error {
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0))
}
