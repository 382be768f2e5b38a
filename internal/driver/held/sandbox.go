package held

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/runtime"
)

// sandbox is a pair of parked namespaces. Either may be nil.
type sandbox struct{ user, net *os.File }

// Sandbox makes the user and network namespaces that b's spec asks for as new
// ones.
func (d *Driver) Sandbox(ctx context.Context, b *model.Bundle) (driver.Sandbox, error) {
	if b.Spec == nil || b.Spec.Linux == nil {
		return &sandbox{}, nil
	}
	wantUser, wantNet, join := b.IDs.Mapped(), false, ""
	for _, ns := range b.Spec.Linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace:
			wantUser, join = ns.Path == "", ns.Path
		case specs.NetworkNamespace:
			wantNet = ns.Path == ""
		}
	}
	user, net, err := makeNamespaces(b, wantUser, wantNet, join)
	if err != nil {
		return nil, fmt.Errorf("sandbox of %s: %w", b.ID.Short(), err)
	}
	return &sandbox{user, net}, nil
}

// makeNamespaces makes what is wanted. A network namespace has to belong to
// the user namespace that the container will be in, another container's
// (join) too: else it could not set its own network sysctls or mount sysfs.
func makeNamespaces(b *model.Bundle, wantUser, wantNet bool, join string) (user, net *os.File, err error) {
	if join != "" {
		if !wantNet {
			return nil, nil, nil
		}
		u, err := os.Open(join)
		if err != nil {
			return nil, nil, err
		}
		defer u.Close()
		net, err = runtime.NewNetworkIn(u)
		return nil, net, err
	}
	var uids, gids []runtime.IDMap
	if wantUser {
		uids, gids = idMaps(b.Spec.Linux.UIDMappings, b.IDs), idMaps(b.Spec.Linux.GIDMappings, b.IDs)
	}
	return runtime.NewNamespaces(uids, gids, wantNet)
}

// idMaps are the spec's mappings, or the range when it has none.
func idMaps(m []specs.LinuxIDMapping, r model.IDRange) []runtime.IDMap {
	if len(m) == 0 {
		return []runtime.IDMap{{Inside: 0, Host: r.Host, Size: r.Size}}
	}
	out := make([]runtime.IDMap, len(m))
	for i, x := range m {
		out[i] = runtime.IDMap{Inside: x.ContainerID, Host: x.HostID, Size: x.Size}
	}
	return out
}

// rootID is the host id of the container's root.
func rootID(b *model.Bundle) uint32 {
	if b.Spec.Linux != nil {
		for _, x := range b.Spec.Linux.UIDMappings {
			if x.ContainerID == 0 {
				return x.HostID
			}
		}
	}
	return b.IDs.Host
}

func (s *sandbox) Netns() string {
	if s.net == nil {
		return ""
	}
	return fmt.Sprintf("/proc/self/fd/%d", s.net.Fd())
}

// Close frees the namespaces. It may be called again.
func (s *sandbox) Close() error {
	var errs []error
	for _, f := range []*os.File{s.user, s.net} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	s.user, s.net = nil, nil
	return errors.Join(errs...)
}
