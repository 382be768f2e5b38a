package network

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// inside is what is done by a thread in the container's namespace, because no
// message can: sysctls.
//
// An interface without an IPv6 address gets no link-local one either. Turning
// IPv6 off on an interface waits for the rtnl lock of the whole machine;
// turning it off for interfaces that come, and on again when ours have come,
// does not.
type inside struct {
	proc    *procfs
	noIPv6  []string // interfaces that get none
	all     bool     // these are all of them
	file    *os.File // of the default, which before turned off; nil: it did not
	sysctls []sysctl // in order; the interfaces' own come last
}

type sysctl struct{ name, value string }

// interfaceSysctls reads the option of an endpoint that sets sysctls of its
// interface: NAME=VALUE, separated by commas, IFNAME standing for the
// interface in NAME.
func interfaceSysctls(opt, ifname string) ([]sysctl, error) {
	if opt == "" {
		return nil, nil
	}
	var all []sysctl
	for _, s := range strings.Split(opt, ",") {
		name, value, ok := strings.Cut(s, "=")
		w := strings.Split(name, ".")
		if !ok || len(w) != 5 || w[0] != "net" || w[1] != "ipv4" && w[1] != "ipv6" && w[1] != "mpls" || w[3] != "IFNAME" || strings.Contains(name, "/") {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid %s %q: it must look like net.ipv4.conf.IFNAME.log_martians=1", optSysctls, s)
		}
		w[3] = strings.ReplaceAll(ifname, ".", "/")
		all = append(all, sysctl{strings.Join(w, "."), value})
	}
	return all, nil
}

const defaultDisableIPv6 = "sys/net/ipv6/conf/default/disable_ipv6"

func newInside(proc *procfs, eps []*endpoint, sysctls map[string]string) *inside {
	in := &inside{proc: proc, all: true}
	for _, e := range eps {
		switch {
		case e.Interface == "":
		case e.Settings.GlobalIPv6Address.IsValid():
			in.all = false
		default:
			in.noIPv6 = append(in.noIPv6, e.Interface)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(sysctls)) {
		if strings.HasPrefix(k, "net.") || strings.HasPrefix(k, "net/") { // others are the runtime's
			in.sysctls = append(in.sysctls, sysctl{k, sysctls[k]})
		}
	}
	for _, e := range eps {
		own, _ := interfaceSysctls(e.Settings.DriverOpts[optSysctls], e.Interface) // checked by checkEndpoint
		in.sysctls = append(in.sysctls, own...)
	}
	return in
}

// before runs before the links are made.
func (in *inside) before(*rtnl) error {
	if !in.all || len(in.noIPv6) == 0 {
		return nil
	}
	f, err := in.proc.open(defaultDisableIPv6, os.O_RDWR)
	if errors.Is(err, os.ErrNotExist) {
		in.noIPv6 = nil // a kernel without IPv6
		return nil
	}
	if err != nil {
		return err
	}
	b := make([]byte, 8)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) || strings.TrimSpace(string(b[:n])) != "0" {
		return errors.Join(ignoreEOF(err), f.Close())
	}
	in.file = f
	_, err = f.WriteAt([]byte("1"), 0)
	return err
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// restore puts back what before changed. It may be called anywhere, and again.
func (in *inside) restore() error {
	if in.file == nil {
		return nil
	}
	_, err := in.file.WriteAt([]byte("0"), 0)
	err = errors.Join(err, in.file.Close())
	in.file = nil
	return err
}

// again reports whether after has anything to do.
func (in *inside) again() bool {
	return len(in.sysctls) > 0 || !in.all && len(in.noIPv6) > 0
}

// after runs when the links are there and before they are up.
func (in *inside) after() error {
	if !in.all {
		for _, name := range in.noIPv6 {
			if err := setFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	for _, s := range in.sysctls {
		if err := writeSysctl(s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}
