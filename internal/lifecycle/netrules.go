package lifecycle

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// limiting is what lifecycle needs of the network room for the limits of
// instances, beside those that Attach takes from labels and rules.
type limiting interface {
	// ChangeRules is old after a change; nil: nothing is left. Pure.
	ChangeRules(old *model.NetworkRules, ch model.NetworkRulesChange) (*model.NetworkRules, error)
	// ShowRules lists the limits by labels and rules. Pure.
	ShowRules(labels map[string]string, rules *model.NetworkRules) (model.NetworkLimits, error)
	// CheckRules refuses instances that cannot be limited from outside.
	CheckRules(r AttachNetworks, mode container.NetworkMode) error
	// Limit brings a running instance to r's labels and rules, at once. Doing
	// it again changes nothing.
	Limit(ctx context.Context, r AttachNetworks) error
	// Mend brings a running container's links to what Restore said, and says
	// whether it had to.
	Mend(ctx context.Context, r AttachNetworks) (mended bool, err error)
}

// limits shows and changes what an instance may send and receive.
type limits struct{ *core }

// NetworkRules lists the limits of a container.
func (s limits) NetworkRules(_ context.Context, ref string) (*model.NetworkLimits, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	return s.shown(e.record())
}

// SetNetworkRules changes them, at once when it runs. The record is written
// first: what is acknowledged holds after a crash too, since taking up a
// container limits it again.
func (s limits) SetNetworkRules(ctx context.Context, ref string, ch model.NetworkRulesChange) (*model.NetworkLimits, error) {
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer done()
	c := e.record()
	before := c.NetworkRules
	rules, err := s.networks.ChangeRules(before, ch)
	if err != nil {
		return nil, err
	}
	if rules != nil {
		if err := s.networks.CheckRules(s.running(c, nil), c.HostConfig.NetworkMode); err != nil {
			return nil, err
		}
	}
	put := func(r *model.NetworkRules) error {
		return s.save(ctx, e, true, func(c *model.Container) { c.NetworkRules = r })
	}
	if err := put(rules); err != nil {
		return nil, err
	}
	if c = e.record(); c.State.Running() {
		if err := s.networks.Limit(ctx, s.running(c, nil)); err != nil {
			if perr := put(before); perr == nil {
				_ = s.networks.Limit(ctx, s.running(e.record(), nil))
			}
			return nil, err
		}
	}
	return s.shown(c)
}

func (s limits) shown(c *model.Container) (*model.NetworkLimits, error) {
	out, err := s.networks.ShowRules(c.Config.Labels, c.NetworkRules)
	if err != nil {
		return nil, err
	}
	out.ID, out.Name, out.Running = c.ID, c.Name, c.State.Running()
	return &out, nil
}

// takeUpNetworks brings a running container's networks to its record, which
// the room has been told by Restore: the daemon may have ended between doing
// and writing, or the other way round.
func (c *core) takeUpNetworks(ctx context.Context, ctr *model.Container) {
	fail := func(what string, err error) {
		if err != nil {
			c.slog.ErrorContext(ctx, what, "id", ctr.ID, "err", err)
		}
	}
	if mode := ctr.HostConfig.NetworkMode; !mode.IsHost() && !mode.IsContainer() {
		mended, err := c.networks.Mend(ctx, c.running(ctr, nil))
		fail("networks not mended", err)
		if mended {
			c.slog.InfoContext(ctx, "networks mended that had changed without a record", "id", ctr.ID)
			fail("files of /etc not brought up to date", c.etcAnew(ctr))
		}
	}
	if slices.ContainsFunc(ctr.Attached, asksInside) {
		_, err := c.networks.Refresh(ctx, c.running(ctr, nil))
		fail("names not taken up", err)
	}
	c.limitAgain(ctx, ctr)
}

// etcAnew writes hosts and resolv.conf, whatever stands there: a change that
// was not recorded has written them.
func (c *core) etcAnew(ctr *model.Container) error {
	f := c.plan.Files(plan.FilesInput{Container: *ctr, Endpoints: ctr.Attached, HostResolv: hostResolv(), Links: c.links(ctr)})
	return errors.Join(
		rewrite(filepath.Join(c.dir(ctr.ID), "hosts"), f.Hosts),
		rewrite(filepath.Join(c.dir(ctr.ID), "resolv.conf"), f.Resolv))
}

// limitAgain carries out the rules of a container that was taken up: the
// daemon may have ended between writing and doing.
func (c *core) limitAgain(ctx context.Context, ctr *model.Container) {
	if ctr.NetworkRules == nil && ctr.Isolation != model.IsolationVM {
		return
	}
	if err := c.networks.Limit(ctx, c.running(ctr, nil)); err != nil {
		c.slog.ErrorContext(ctx, "network rules not carried out", "id", ctr.ID, "err", err)
	}
}

// asksInside reports whether a container on ep may have its name server in its
// own namespace, where it ends with the daemon: those with no end on this
// host, and with no IPv4 address to ask from.
func asksInside(ep model.Endpoint) bool {
	return ep.Interface != "" && !ep.Tap && (ep.HostLink == "" || ep.Settings == nil || !ep.Settings.IPAddress.IsValid())
}
