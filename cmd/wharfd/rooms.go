package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/archive"
	"wharf/internal/build"
	"wharf/internal/config"
	"wharf/internal/dockerapi"
	"wharf/internal/driver/native"
	"wharf/internal/driver/qemu"
	"wharf/internal/host"
	"wharf/internal/image"
	"wharf/internal/lifecycle"
	"wharf/internal/logs"
	"wharf/internal/network"
	"wharf/internal/plan"
	"wharf/internal/record"
	"wharf/internal/undo"
	"wharf/internal/volume"
)

// rooms are the engine's parts, wired.
type rooms struct {
	facts    host.Facts
	records  *record.Store
	images   *image.Store
	networks *network.Room
	volumes  *volume.Room
	engine   *lifecycle.Engine
	builds   *build.Room
	system   *sysinfo
	nudged   atomic.Pointer[lifecycle.Engine] // the engine, for rooms that are open before it
	cdi      *cdiDevices

	streams context.Context // of requests that last as long as what they show
	closing func()          // ends those
	verbs   context.Context // of all others
	cut     func()          // ends these too
}

// openRooms opens everything below the data root. held gets what has to be
// closed, in reverse.
func openRooms(ctx context.Context, c *config.Config, live *atomic.Pointer[config.Config], held *undo.Stack) (*rooms, error) {
	r := &rooms{cdi: &cdiDevices{dirs: c.CDISpecDirs}}
	r.streams, r.closing = context.WithCancel(ctx)
	r.verbs, r.cut = context.WithCancel(ctx)
	held.Push(func() error { r.closing(); r.cut(); return nil })

	facts := make(chan host.Facts, 1) // some milliseconds of probes, beside the opening of files
	go func() { facts <- host.Detect(host.Options{DataRoot: c.DataRoot}) }()

	var err error
	if r.records, err = record.Open(c.DataRoot); err != nil {
		return nil, err
	}
	held.Push(r.records.Close)
	if err := r.openStores(ctx, c, held); err != nil {
		return nil, err
	}
	containers, err := native.New(native.Options{Monitor: c.Monitor, ExecRoot: c.ExecRoot, CgroupParent: strings.TrimPrefix(c.CgroupParent, "/"), Spares: 1})
	if err != nil {
		return nil, err
	}
	held.Push(containers.Close)
	vms, err := openMachines(c)
	if err != nil {
		return nil, err
	}
	if vms != nil {
		held.Push(vms.Close)
		r.volumes.SetDisks(vms)
	}
	r.facts = <-facts
	for _, w := range host.Warnings(r.facts) {
		slog.Warn(strings.TrimPrefix(w, "WARNING: "))
	}
	pf, pd := planFacts(r.facts, c), planDefaults(c, r.gateway(ctx))
	r.engine, err = lifecycle.New(lifecycle.Options{
		Images: r.images, Networks: r.networks, Volumes: r.volumes, Logs: logs.New(), Records: r.records, Archives: archive.New(),
		Drivers: drivers(containers, vms),
		Facts:   pf, Defaults: pd, DataRoot: c.DataRoot, IDBase: c.IDBase, Devices: devices, CDI: r.cdi, Checks: r.checks(),
		Trash: trashBounds(c), Deadline: deadline(c),
	})
	if err != nil {
		return nil, err
	}
	if vms != nil {
		// What belongs to no instance runs there: templates, and QEMU of --privileged.
		r.engine.HoldIDs("machines", machineIDs(c))
		vms.SetReady(qemu.Ready{Most: ready(c), IDs: r.engine, Disks: r.images.MachineDisks})
	}
	r.nudged.Store(r.engine)
	held.Push(func() error { r.engine.Close(); return nil })
	if r.builds, err = openBuilds(c, r.images, r.engine, r.records, r.gateway(ctx)); err != nil {
		return nil, err
	}
	held.Push(r.builds.Close)
	r.system = &sysinfo{rooms: r, live: live, plan: pf}
	return r, r.system.open(c.DataRoot)
}

// openStores opens the rooms of images, networks and volumes.
func (r *rooms) openStores(ctx context.Context, c *config.Config, held *undo.Stack) (err error) {
	if r.images, err = image.Open(ctx, image.Options{
		Root: filepath.Join(c.DataRoot, "image"), CertsDir: c.CertsDir,
		InsecureRegistries: c.InsecureRegistries, Mirrors: c.RegistryMirrors,
		MaxDownloads: c.MaxConcurrentDownloads, MaxUploads: c.MaxConcurrentUploads,
		Users: r.imageUsers, Changes: plan.Changes, Publish: r.records.Publish, UserAgent: "wharf/" + release(),
		Trust: c.Trust, Disks: wantsMachines(c),
	}); err != nil {
		return err
	}
	held.Push(r.images.Close)
	if r.networks, err = network.Open(ctx, networkOptions(c, r.records)); err != nil {
		return err
	}
	held.Push(r.networks.Close)
	if r.volumes, err = volume.Open(volume.Options{Dir: filepath.Join(c.DataRoot, "volumes"), Publish: r.records.Publish, Archives: archive.New(), OnTrash: r.trashed}); err != nil {
		return err
	}
	return nil
}

func networkOptions(c *config.Config, records *record.Store) network.Options {
	o := network.Options{
		Dir: filepath.Join(c.DataRoot, "network"), Bridge: c.Bridge, BIP: c.BIP, FixedCIDR: c.FixedCIDR, Gateway: c.DefaultGateway,
		IPv6: c.IPv6, SubnetV6: c.FixedCIDRv6,
		MTU: c.MTU, NoICC: !c.ICC, NoMasquerade: !c.IPMasq, NoIPForward: !c.IPForward, HostBindingIP: c.IP,
		FirewallMode: c.FirewallMode, NoRelay: !c.UserlandProxy,
		DNS: c.DNS, ResolvConf: hostResolv(), Publish: records.Publish,
	}
	if c.Bridge == "none" {
		o.Bridge, o.NoDefault = "", true
	}
	for _, p := range c.DefaultAddressPools {
		o.Pools = append(o.Pools, network.AddressPool{Base: p.Base, Size: p.Size})
	}
	return o
}

// hostResolv is the file that names the host's resolvers. Where systemd's stub
// answers on loopback, its own file names those behind it.
func hostResolv() string {
	const plain, behind = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	b, err := os.ReadFile(plain)
	if err != nil {
		return plain
	}
	servers := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			servers++
			if f[1] != "127.0.0.53" {
				return plain
			}
		}
	}
	if _, err := os.Stat(behind); err != nil || servers == 0 {
		return plain
	}
	return behind
}

// gateway is the address by which containers of the default bridge reach the
// host; nil without one.
func (r *rooms) gateway(ctx context.Context) []netip.Addr {
	n, err := r.networks.Inspect(ctx, "bridge", false)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, p := range n.IPAM.Config {
		if p.Gateway.IsValid() {
			out = append(out, p.Gateway)
		}
	}
	return out
}

// imageUsers tells the image room which images containers use.
func (r *rooms) imageUsers(context.Context) ([]image.User, error) {
	if r.engine == nil { // still starting: nobody can be told to remove images
		return nil, nil
	}
	list := r.engine.Records()
	out := make([]image.User, 0, len(list))
	for _, c := range list {
		u := image.User{ID: c.ID, Name: c.Name, Image: c.Image.ID, Running: c.State.Running() || c.State.Phase == container.StateRestarting}
		out = append(out, u)
		for _, m := range c.Mounts {
			if m.Image != nil && m.Image.ID != c.Image.ID {
				u.Image = m.Image.ID
				out = append(out, u)
			}
		}
	}
	return out, nil
}

// handler is the API.
func (r *rooms) handler() http.Handler {
	api := dockerapi.New(dockerapi.Options{
		Containers: r.engine, Images: r.images, Networks: r.networks, Volumes: r.volumes, VolumeData: r.volumes, ImageCopies: r.images, ImageTrust: r.images, Builds: r.builds, Builder: "2",
		NetworkLimits: r.engine,
		System:        r.system, Feed: r.records, Removed: r.engine, Wharf: r.own(), Version: release(),
	})
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		// A request ends with its client, or with the daemon.
		ctx, cancel := context.WithCancel(q.Context())
		defer cancel()
		daemon := r.verbs
		if isStream(q.URL.Path) {
			daemon = r.streams
		}
		stop := context.AfterFunc(daemon, cancel)
		defer stop()
		api.ServeHTTP(w, q.WithContext(ctx))
	})
}

// isStream tells requests that end with a container, or never, from those that
// do a thing and are done.
func isStream(path string) bool {
	for _, end := range []string{"/events", "/logs", "/attach", "/attach/ws", "/wait", "/stats"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return strings.HasSuffix(path, "/start") && strings.Contains(path, "/exec/")
}

// own are the engine's endpoints beside Docker's.
func (r *rooms) own() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /wharf/v1/doctor", func(w http.ResponseWriter, q *http.Request) {
		answer(w, append(host.Report(r.facts), vmReport(q.Context(), r.system.live.Load())...))
	})
	mux.HandleFunc("GET /wharf/v1/facts", func(w http.ResponseWriter, _ *http.Request) { answer(w, r.facts) })
	r.fsckRoute(mux)
	mux.HandleFunc("GET /wharf/v1/containers/{ref}/timing", func(w http.ResponseWriter, q *http.Request) {
		t, err := r.engine.Timing(q.PathValue("ref"))
		if err != nil {
			code := http.StatusInternalServerError
			if errdefs.IsNotFound(err) {
				code = http.StatusNotFound
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
			return
		}
		answer(w, t)
	})
	return mux
}

// loadBase puts the small image that comes with the daemon into a new store.
// A person who removed it does not get it back.
func (r *rooms) loadBase(ctx context.Context, c *config.Config) {
	places := []string{c.BaseImage}
	if c.BaseImage == "" {
		places = []string{"/usr/share/wharf/base.tar"}
		if self, err := os.Executable(); err == nil {
			places = append(places, filepath.Join(filepath.Dir(self), "..", "share", "wharf", "base.tar"))
		}
	}
	for _, p := range places {
		if _, err := os.Stat(p); errors.Is(err, os.ErrNotExist) && c.BaseImage == "" {
			continue
		}
		if err := r.images.EnsureBase(ctx, p); err != nil {
			slog.Warn("the base image was not loaded", "file", p, "err", err)
		}
		return
	}
}
