package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"wharf/internal/build"
	"wharf/internal/config"
	"wharf/internal/image"
	"wharf/internal/lifecycle"
	"wharf/internal/record"
)

// openBuilds makes the build room, which sets nothing up before the first
// build.
func openBuilds(c *config.Config, images *image.Store, engine *lifecycle.Engine, records *record.Store, gateway []netip.Addr) (*build.Room, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(c.DataRoot, &disk); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", c.DataRoot, err)
	}
	def, rules, err := c.Builder.Spaces(int64(disk.Blocks) * disk.Bsize)
	if err != nil {
		return nil, err
	}
	gc := build.GC{Off: c.Builder.GC.Enabled != nil && !*c.Builder.GC.Enabled, Reserved: def.Reserved, Max: def.Max, MinFree: def.MinFree}
	for _, p := range rules {
		gc.Policies = append(gc.Policies, build.Policy{
			Filters: p.Filters, All: p.All, KeepFor: p.UnusedFor, Reserved: p.Reserved, Max: p.Max, MinFree: p.MinFree,
		})
	}
	host := ""
	if all := append(slices.Clone(c.HostGatewayIPs), gateway...); len(all) > 0 {
		host = all[0].String()
	}
	may := c.Builder.Entitlements
	return build.New(build.Options{
		Root: filepath.Join(c.DataRoot, "build"), Namespace: image.Namespace, Images: images, Steps: engine, Version: release(), GC: gc, HostGateway: host, Temp: filepath.Join(c.DataRoot, "tmp"),
		Insecure: may.SecurityInsecure != nil && *may.SecurityInsecure, NoHostNetwork: may.NetworkHost != nil && !*may.NetworkHost,
		Publish: records.Publish,
	})
}

// useTemp makes <data root>/tmp the place for files that BuildKit and others
// make for a moment, so that they are on the same file system as what they
// become, and clears what a dead daemon left and mounted there.
func useTemp(dataRoot string) error {
	dir := filepath.Join(dataRoot, "tmp")
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir + "/"))
	if err != nil {
		return err
	}
	for i := len(left) - 1; i >= 0; i-- {
		if err := unix.Unmount(left[i].Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s, left by an earlier daemon: %w", left[i].Mountpoint, err)
		}
	}
	old, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range old {
		if strings.HasPrefix(e.Name(), "buildkit-") {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}
