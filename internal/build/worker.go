package build

import (
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	cachemeta "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	bksnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	httpsource "github.com/moby/buildkit/source/http"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/leaseutil"
	bkworker "github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// worker is BuildKit's base worker with the docker driver's name of the image
// exporter.
type worker struct {
	*base.Worker
	root  string
	adopt func(ctx context.Context, src *exporter.Source, target ocispec.Descriptor)
	made  func(id string)
}

// mobyExporter is what clients of a docker engine call "into its images".
const mobyExporter = "moby"

// danglingPrefix names images without a name, as the image room does.
const danglingPrefix = "moby-dangling"

// Exporter implements BuildKit's worker.
func (w *worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	if name != mobyExporter && name != client.ExporterImage {
		return w.Worker.Exporter(name, sm)
	}
	e, err := w.Worker.Exporter(client.ExporterImage, sm)
	if err != nil {
		return nil, err
	}
	return imageExporter{e, w.adopt, w.made}, nil
}

// imageExporter keeps also what has no name.
type imageExporter struct {
	exporter.Exporter
	adopt func(ctx context.Context, src *exporter.Source, target ocispec.Descriptor)
	made  func(id string)
}

func (e imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	if names := attrs[string(exptypes.OptKeyName)]; names != "" && names != "*" {
		full, err := fullNames(strings.Split(names, ","))
		if err != nil {
			return nil, err
		}
		attrs[string(exptypes.OptKeyName)] = full
	}
	for k, v := range map[exptypes.ImageExporterOptKey]string{
		exptypes.OptKeyDanglingPrefix: danglingPrefix, exptypes.OptKeyDanglingEmptyOnly: "true",
	} {
		if _, ok := attrs[string(k)]; !ok {
			attrs[string(k)] = v
		}
	}
	i, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil || attrs[string(exptypes.OptKeyStore)] == "false" {
		return i, err
	}
	return tellingExport{adoptingExport{i, e.adopt}, e.made}, nil
}

func (r *Room) newWorker() (*worker, error) {
	root, im := r.opts.Root, r.opts.Images
	id, err := base.ID(root)
	if err != nil {
		return nil, err
	}
	meta, err := cachemeta.NewStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	if db, ok := meta.DB().(*bolt.DB); ok {
		db.NoSync = true // see unsettled.go
	}
	hostname, _ := os.Hostname()
	cs := bksnapshot.NewContentStore(im.ContentStore(), r.opts.Namespace)
	opt := base.WorkerOpt{
		ID: id, Root: root, MetadataStore: meta,
		Labels: map[string]string{
			wlabel.Executor: "wharf", wlabel.Snapshotter: im.SnapshotterName(), wlabel.Hostname: hostname, wlabel.Network: "bridge",
			// buildx looks for these in an engine that speaks Docker's API.
			"org.mobyproject.buildkit.worker.moby.host-gateway-ip": r.opts.HostGateway, "org.mobyproject.buildkit.worker.containerd.namespace": r.opts.Namespace,
		},
		Platforms:       platformsHere(),
		BuildkitVersion: client.BuildkitVersion{Package: "github.com/moby/buildkit", Version: "wharf-" + r.opts.Version},
		GCPolicy:        r.opts.GC.policies(root),
		Executor:        &executor{steps: r.opts.Steps, insecure: r.opts.Insecure, running: map[string]*runningStep{}},
		Snapshotter:     bksnapshot.NewSnapshotter(im.SnapshotterName(), chainNames{im.Snapshotter()}, r.opts.Namespace, nil),
		ContentStore:    cs,
		Applier:         apply.NewFileSystemApplier(cs),
		Differ:          walking.NewWalkingDiff(cs),
		ImageStore:      im.BuildImages(),
		RegistryHosts:   im.RegistryHosts(),
		LeaseManager:    leaseutil.WithNamespace(markingLeases{im.LeaseManager(), r.disk.changed}, r.opts.Namespace),
		GarbageCollect:  func(ctx context.Context) (gc.Stats, error) { return collected{}, im.Collect(ctx) },
		MountPoolRoot:   filepath.Join(root, "cachemounts"),
	}
	w, err := base.NewWorker(context.Background(), opt)
	if err != nil {
		_ = meta.Close()
		return nil, err
	}
	return &worker{w, root, r.adopt, r.made}, nil
}

// fetchBy has http sources fetched by rt.
func (w *worker) fetchBy(rt http.RoundTripper) error {
	src, err := httpsource.NewSource(httpsource.Opt{CacheAccessor: w.CacheMgr, Transport: rt})
	if err == nil {
		w.SourceManager.Register(src)
	}
	return err
}

// collected are the figures of a collection, which nobody reads.
type collected struct{}

func (collected) Elapsed() time.Duration { return 0 }

// platformsHere are the host's and those that binfmt_misc runs.
func platformsHere() []ocispec.Platform {
	out := []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}
	for _, p := range archutil.SupportedPlatforms(true) {
		if !platforms.NewMatcher(out[0]).Match(p) {
			out = append(out, p)
		}
	}
	return out
}

func (r *Room) newController(k *kit) (*control.Controller, error) {
	wc := &bkworker.Controller{}
	if err := wc.Add(k.worker); err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(r.opts.Root, "cache.db"))
	if err != nil {
		return nil, err
	}
	history, err := bolt.Open(filepath.Join(r.opts.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	frontends, err := frontends(wc)
	if err != nil {
		return nil, err
	}
	hosts := k.worker.RegistryHosts
	return control.NewController(control.Opt{
		SessionManager: k.sessions, WorkerController: wc, Frontends: frontends,
		CacheManager: solver.NewCacheManager(context.Background(), "local", cache, bkworker.NewCacheResultStorage(wc)),
		CacheStore:   cache,
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registrycache.ResolveCacheExporterFunc(k.sessions, docker.RegistryHosts(hosts)),
			"local":    localcache.ResolveCacheExporterFunc(k.sessions),
			"inline":   inlinecache.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registrycache.ResolveCacheImporterFunc(k.sessions, k.worker.ContentStore(), docker.RegistryHosts(hosts)),
			"local":    localcache.ResolveCacheImporterFunc(k.sessions),
		},
		Entitlements:   r.entitlements(),
		HistoryDB:      history,
		LeaseManager:   k.worker.LeaseManager(),
		ContentStore:   k.worker.ContentStore(),
		GarbageCollect: k.worker.GarbageCollect,
	})
}

// entitlements are what a build may ask for.
func (r *Room) entitlements() []string {
	var out []string
	if !r.opts.NoHostNetwork {
		out = append(out, string(entitlements.EntitlementNetworkHost))
	}
	if r.opts.Insecure {
		out = append(out, string(entitlements.EntitlementSecurityInsecure))
	}
	return out
}

// frontends: Dockerfiles are read by the built-in one, also where their
// "# syntax=" line or a client asks for docker/dockerfile as an image.
func frontends(wc *bkworker.Controller) (map[string]frontend.Frontend, error) {
	own := forwarder.NewGatewayForwarder(wc.Infos(), buildDockerfile)
	gw, err := gateway.NewGatewayFrontend(wc.Infos(), nil)
	if err != nil {
		return nil, err
	}
	return map[string]frontend.Frontend{"dockerfile.v0": own, "gateway.v0": builtin{gw, own}}, nil
}
