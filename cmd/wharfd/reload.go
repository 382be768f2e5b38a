package main

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"

	"wharf/internal/config"
)

// reload reads the configuration again and takes over what can change while
// the daemon runs. A configuration with a mistake changes nothing.
func (d *daemon) reload(ctx context.Context) {
	_, _ = sd.SdNotify(false, sd.SdNotifyReloading)
	defer func() { _, _ = sd.SdNotify(false, sd.SdNotifyReady) }()
	next, err := config.Parse(d.args)
	if err != nil {
		slog.ErrorContext(ctx, "the configuration was not reloaded; nothing changed", "err", err)
		return
	}
	old := d.live.Load()
	now, later := config.Diff(old, next)
	if len(later) > 0 {
		slog.WarnContext(ctx, "some changes need a restart of the daemon", "options", strings.Join(later, ", "))
	}
	taken := config.Take(old, next)
	setLevel(d.level, taken)
	d.rooms.images.Reconfigure(taken.InsecureRegistries, taken.RegistryMirrors, taken.MaxConcurrentDownloads, taken.MaxConcurrentUploads)
	d.rooms.images.SetTrust(taken.Trust)
	d.rooms.images.SetAutoRemoval(autoRemoval(taken))
	d.rooms.engine.SetTrash(trashBounds(taken))
	d.live.Store(taken)
	attrs := taken.Text()
	attrs["name"] = d.rooms.facts.Hostname
	d.rooms.records.Publish(events.DaemonEventType, events.ActionReload, d.rooms.system.id, attrs)
	slog.InfoContext(ctx, "configuration reloaded", "changed", strings.Join(now, ", "))
}

// addRegistry files an insecure registry as info shows it: by network or by
// name.
func addRegistry(c *registry.ServiceConfig, r string) {
	if p, err := netip.ParsePrefix(r); err == nil {
		c.InsecureRegistryCIDRs = append(c.InsecureRegistryCIDRs, p)
		return
	}
	c.IndexConfigs[r] = &registry.IndexInfo{Name: r, Mirrors: []string{}}
}
