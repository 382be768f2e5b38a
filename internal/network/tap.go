package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// A virtual machine has no namespace to put an interface into: its interface
// is a tap on the network's bridge, under the name that a container's veth
// would have. The room makes it persistent and closes it; whoever runs the
// machine opens it by name, which gives it a carrier, and may take the
// persistence away, so that it goes with the machine. Addresses, names,
// published ports and sweeps are the same as a container's.

// wireTaps makes the taps of eps.
func (r *Room) wireTaps(q model.AttachNetworks, eps []*endpoint) error {
	for _, e := range eps {
		if e.Interface == "" {
			continue
		}
		if err := r.addTap(e); err != nil {
			return fmt.Errorf("network %s: %w", e.net.rec.Name, err)
		}
	}
	p, err := policyOf(q)
	if err != nil {
		return err
	}
	return r.limitTaps(q.ID, eps, p)
}

// addTap makes e's tap and puts it on the bridge.
func (r *Room) addTap(e *endpoint) error {
	bridge, err := r.ensure(e.net)
	if err != nil {
		return err
	}
	if err := openTap(e.HostLink); err != nil {
		return explain(err)
	}
	i, err := r.rt.index(e.HostLink)
	if err == nil {
		err = r.rt.do(setMaster(i, bridge, e.net.mtu(), e.HostLink))
	}
	if err == nil {
		err = r.portSwitches(e)
	}
	if err != nil {
		return errors.Join(explain(err), r.removeLink(e.HostLink))
	}
	return nil
}

// openTap makes a persistent tap.
func openTap(name string) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return model.Refuse(errdefs.ErrFailedPrecondition, "a virtual machine's network needs /dev/net/tun, which is not here: load the module tun, or give the daemon the device")
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep tap %s: %w", name, err)
	}
	return nil
}
