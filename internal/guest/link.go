package guest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// deviceTime is how long a device may take to appear after its driver was
// loaded.
const deviceTime = 10 * time.Second

// links are the machine's network interfaces. Those that no network is
// connected to are out of sight, in a network namespace of nobody's: the machine
// has spare ones from the start, because its devices cannot be plugged in later.
type links struct {
	main   *route
	spare  *route // nil until there is one
	mainNS int
	hidden int // descriptor of the spares' namespace
}

// openLinks opens the namespaces. They stay open as long as the machine runs.
func openLinks() (*links, error) {
	main, err := openRoute()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		main.close()
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &links{main: main, mainNS: fd}, nil
}

func (l *links) close() {
	l.main.close()
	_ = unix.Close(l.mainNS)
	if l.spare != nil {
		l.spare.close()
		_ = unix.Close(l.hidden)
	}
}

// hide makes the namespace of the spares.
func (l *links) hide() error {
	if l.spare != nil {
		return nil
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		if l.hidden, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		l.spare, err = openRoute()
		return err
	})
	if err != nil {
		return fmt.Errorf("namespace of spare interfaces: %w", err)
	}
	return nil
}

// onThread runs f on a thread that ends with it, and that is not the process's
// first: its namespaces are what /proc/1/ns shows, which containers join.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(f) // this thread waits, so it is another one
			runtime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread ends here
	}()
	return <-done
}

// find looks for an interface in both namespaces.
func (l *links) find(mac string) (*route, *linkInfo, error) {
	want, err := net.ParseMAC(mac)
	if err != nil {
		return nil, nil, invalid("hardware address %q: %v", mac, err)
	}
	for end := time.Now().Add(deviceTime); ; time.Sleep(2 * time.Millisecond) {
		for _, r := range []*route{l.main, l.spare} {
			if r == nil {
				continue
			}
			all, err := r.links()
			if err != nil {
				return nil, nil, err
			}
			for i := range all {
				if bytes.Equal(all[i].mac, want) || bytes.Equal(all[i].perm, want) {
					return r, &all[i], nil
				}
			}
		}
		if time.Now().After(end) {
			return nil, nil, failed(guestapi.KindNotFound, "the machine has no network interface with the hardware address %s", mac)
		}
	}
}

// configure makes an interface what the host says: everything that it had
// before is taken off.
func (l *links) configure(i *guestapi.Interface) error {
	device := i.Device
	if device == "" {
		device = i.MAC
	}
	r, info, err := l.find(device)
	if err != nil {
		return err
	}
	if r == l.spare {
		if err := r.setLink(info.index, linkChange{netns: l.mainNS}); err != nil {
			return fmt.Errorf("interface %s: %w", device, err)
		}
		if r, info, err = l.find(device); err != nil { // its index may be another one here
			return err
		}
	}
	if i.Name == "" {
		i.Name = info.name
	}
	if err := configureLink(r, info, i); err != nil {
		return fmt.Errorf("interface %s (%s): %w", i.Name, i.MAC, err)
	}
	return nil
}

// park takes an interface down and out of sight.
func (l *links) park(r *route, info *linkInfo) error {
	if err := l.hide(); err != nil {
		return err
	}
	if r == l.spare {
		return nil
	}
	if err := r.setLink(info.index, linkChange{down: true}); err != nil {
		return err
	}
	if err := r.keepAddresses(info.index, nil); err != nil {
		return err
	}
	// A name of its own in both namespaces.
	name := fmt.Sprintf("spare%d", info.index)
	if err := r.setLink(info.index, linkChange{name: name}); err != nil {
		return err
	}
	return r.setLink(info.index, linkChange{netns: l.hidden})
}

// parkOthers parks what the boot does not name. Only devices: what the kernel
// makes itself (lo, sit0) stays.
func (l *links) parkOthers(named []guestapi.Interface) error {
	all, err := l.main.links()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, i := range named {
		for _, s := range []string{i.MAC, i.Device} {
			if mac, err := net.ParseMAC(s); err == nil {
				keep[string(mac)] = true
			}
		}
	}
	for i := range all {
		if len(all[i].perm) == 0 || keep[string(all[i].mac)] || keep[string(all[i].perm)] {
			continue
		}
		if err := l.park(l.main, &all[i]); err != nil {
			return fmt.Errorf("spare interface %s: %w", all[i].name, err)
		}
	}
	return nil
}

// configureLink gives an interface what the host says and takes off what it
// does not. One that is up stays up, and what stays as it is is not touched,
// unless it gets another name or address of its own.
func configureLink(r *route, l *linkInfo, i *guestapi.Interface) error {
	change := linkChange{mtu: i.MTU}
	if i.Name != l.name {
		change.name = i.Name
	}
	if i.Device != "" {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return invalid("hardware address %q: %v", i.MAC, err)
		}
		if !bytes.Equal(mac, l.mac) {
			change.mac = mac
		}
	}
	if l.up && (change.name != "" || change.mac != nil) {
		if err := r.setLink(l.index, linkChange{down: true}); err != nil { // also takes routes off
			return err
		}
	}
	if err := r.setLink(l.index, change); err != nil {
		return err
	}
	if err := useIPv6(i); err != nil {
		return err
	}
	for name, value := range i.Sysctls {
		if err := sysctl(strings.ReplaceAll(strings.ReplaceAll(name, ".", "/"), "IFNAME", i.Name), value); err != nil {
			return err
		}
	}
	if err := r.setLink(l.index, linkChange{up: true}); err != nil {
		return err
	}
	return addressing(r, l.index, i)
}

// useIPv6 switches IPv6 off on an interface that has no such address, as on a
// container's.
func useIPv6(i *guestapi.Interface) error {
	off := "1"
	for _, a := range i.Addresses {
		if strings.Contains(a, ":") {
			off = "0"
		}
	}
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+i.Name+"/disable_ipv6", []byte(off), 0)
	if errors.Is(err, os.ErrNotExist) { // a kernel without it, which says so at the address
		return nil
	}
	return err
}

// addressing sets addresses and routes.
func addressing(r *route, index int32, i *guestapi.Interface) error {
	var addresses []netip.Prefix
	for _, s := range i.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return invalid("address %q: %v", s, err)
		}
		addresses = append(addresses, p)
	}
	var routes []routeInfo
	for _, rt := range i.Routes {
		w, err := parseRoute(rt)
		if err != nil {
			return err
		}
		routes = append(routes, w)
	}
	if err := r.keepRoutes(index, routes); err != nil {
		return err
	}
	if err := r.keepAddresses(index, addresses); err != nil {
		return err
	}
	for _, p := range addresses {
		if err := r.addAddress(index, p); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	for _, w := range routes {
		if err := r.addRoute(index, w); err != nil {
			return fmt.Errorf("route to %s by %s: %w", w.dst, w.gw, err)
		}
	}
	return nil
}

// parseRoute reads a route; without a destination it goes everywhere.
func parseRoute(rt guestapi.Route) (w routeInfo, err error) {
	w.metric = rt.Metric
	if rt.Gateway != "" {
		if w.gw, err = netip.ParseAddr(rt.Gateway); err != nil {
			return w, invalid("gateway %q: %v", rt.Gateway, err)
		}
	}
	switch {
	case rt.Destination != "":
		if w.dst, err = netip.ParsePrefix(rt.Destination); err != nil {
			return w, invalid("route to %q: %v", rt.Destination, err)
		}
		w.dst = w.dst.Masked()
	case !w.gw.IsValid():
		return w, invalid("a route has neither destination nor gateway")
	case w.gw.Is4():
		w.dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		w.dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return w, nil
}

// interfaces are those of the boot.
func (a *Agent) interfaces(list []guestapi.Interface) error {
	a.net.Lock()
	defer a.net.Unlock()
	l, err := a.networkLinks()
	if err != nil {
		return err
	}
	for i := range list {
		if err := l.configure(&list[i]); err != nil {
			return err
		}
	}
	return l.parkOthers(list)
}

// networkLinks opens them at the first use; a.net is held.
func (a *Agent) networkLinks() (*links, error) {
	var err error
	if a.links == nil {
		a.links, err = openLinks()
	}
	return a.links, err
}

// onLink does something with the interface of a request.
func (a *Agent) onLink(c *call, f func(*links, *guestapi.Interface) error) error {
	if c.req.Interface == nil {
		return invalid("the request names no interface")
	}
	a.net.Lock()
	defer a.net.Unlock()
	l, err := a.networkLinks()
	if err != nil {
		return err
	}
	if err := f(l, c.req.Interface); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return failed(guestapi.KindConflict, "%v", err)
		}
		return err
	}
	return c.reply(guestapi.Reply{})
}

func (a *Agent) link(c *call) error { return a.onLink(c, (*links).configure) }

// unlink hides an interface. The device stays, for another network later.
func (a *Agent) unlink(c *call) error {
	return a.onLink(c, func(l *links, i *guestapi.Interface) error {
		r, info, err := l.find(i.MAC)
		if err != nil {
			return err
		}
		return l.park(r, info)
	})
}
