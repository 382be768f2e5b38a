package build

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// builds are the classic ones under way, by the id that their client gave.
type builds struct {
	mu   sync.Mutex
	stop map[string]context.CancelFunc
}

func (b *builds) enter(id string, stop context.CancelFunc) (leave func()) {
	if id == "" {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop == nil {
		b.stop = map[string]context.CancelFunc{}
	}
	b.stop[id] = stop
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.stop, id)
	}
}

// Cancel ends the build that a client called id.
func (r *Room) Cancel(_ context.Context, id string) error {
	r.builds.mu.Lock()
	stop := r.builds.stop[id]
	r.builds.mu.Unlock()
	if stop == nil {
		return cerrdefs.ErrNotFound.WithMessage("no build has the id " + id)
	}
	stop()
	return nil
}

// Build serves POST /build: body is the context as a tar, unless q.Remote says
// another.
func (r *Room) Build(ctx context.Context, q model.BuildRequest, body io.Reader, send model.Progress) error {
	if q.Squash {
		return cerrdefs.ErrNotImplemented.WithMessage("squash: BuildKit squashes nothing; use a multi-stage build with COPY --from")
	}
	r.busy.Add(1)
	defer r.busy.Add(-1)
	k, err := r.up()
	if err != nil {
		return err
	}
	if id, ok := strings.CutPrefix(q.ID, uploadRequest); ok && id != "" {
		return k.uploads.offer(ctx, q.ID, body, uploadPatience)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer r.builds.enter(q.ID, stop)()

	if q.Platform != "" {
		if _, err := platforms.Parse(q.Platform); err != nil {
			return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("platform %q: %v", q.Platform, err))
		}
	}
	if q.ExtraHosts, err = r.extraHosts(q.ExtraHosts); err != nil {
		return err
	}
	q.HostNetwork = !r.opts.NoHostNetwork
	if q.BuildKit {
		return r.traced(ctx, k, q, body, send)
	}
	opt, err := solveOptions(q)
	if err != nil {
		return err
	}
	up := uploadprovider.New()
	switch {
	case q.Remote == "client-session", q.Remote == "upload-request":
		return cerrdefs.ErrInvalidArgument.WithMessage("remote=" + q.Remote + " goes with version=2")
	case q.Remote != "":
		opt.FrontendAttrs[optContext] = q.Remote
	default:
		opt.FrontendAttrs[optContext] = up.Add(io.NopCloser(body))
	}
	opt.FrontendAttrs[optClassic] = "1"
	opt.Session = append(opt.Session, up, &credentials{all: q.Auth})

	out := newStream(q, send)
	res, err := k.solveShown(ctx, opt, out.status)
	if err != nil {
		return out.failed(blamed(err))
	}
	out.done(res.ExporterResponse[exptypes.ExporterImageDigestKey])
	return nil
}

// solveShown has BuildKit solve; show gets each message of the progress before it
// returns.
func (k *kit) solveShown(ctx context.Context, opt client.SolveOpt, show func(*client.SolveStatus)) (*client.SolveResponse, error) {
	statuses := make(chan *client.SolveStatus)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		for st := range statuses {
			show(st)
		}
	}()
	res, err := k.client.Solve(ctx, nil, opt, statuses)
	<-shown
	return res, err
}

// solveOptions puts a request into the Dockerfile frontend's words.
func solveOptions(q model.BuildRequest) (client.SolveOpt, error) {
	a := map[string]string{optDockerfile: q.Dockerfile}
	set := func(key, v string) {
		if v != "" && v != "0" {
			a[key] = v
		}
	}
	if q.Dockerfile == "" {
		a[optDockerfile] = "Dockerfile"
	}
	set("target", q.Target)
	set("platform", q.Platform)
	set("add-hosts", strings.Join(q.ExtraHosts, ","))
	set(optCgroup, q.CgroupParent)
	for key, n := range map[string]int64{
		"shm-size": q.ShmSize, "memory": q.Memory, "memswap": q.MemorySwap,
		"cpushares": q.CPUShares, "cpuperiod": q.CPUPeriod, "cpuquota": q.CPUQuota,
	} {
		set(key, fmt.Sprint(n))
	}
	set("cpusetcpus", q.CpusetCpus)
	set("cpusetmems", q.CpusetMems)
	a["image-resolve-mode"] = "local"
	if q.Pull {
		a["image-resolve-mode"] = "pull"
	}
	if q.NoCache {
		a["no-cache"] = ""
	}
	for name, v := range q.Args {
		if v != nil {
			a["build-arg:"+name] = *v
		}
	}
	for name, v := range q.Labels {
		a["label:"+name] = v
	}
	if q.Network != "default" && q.Network != "bridge" {
		set(optNetwork, q.Network)
	}
	set("ulimit", limitsText(q.Ulimits))

	opt := client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: a}
	for _, ref := range q.CacheFrom {
		opt.CacheImports = append(opt.CacheImports, client.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	if inlineCache(q) {
		opt.CacheExports = append(opt.CacheExports, client.CacheOptionsEntry{Type: "inline", Attrs: map[string]string{}})
	}
	if q.HostNetwork {
		opt.AllowedEntitlements = []string{string(entitlements.EntitlementNetworkHost)}
	}
	var err error
	if q.BuildKit {
		opt.Exports, err = tracedExports(q)
	} else {
		opt.Exports, err = exportsOf(q)
	}
	return opt, err
}

// exportsOf is the image store, unless the client says another.
func exportsOf(q model.BuildRequest) ([]client.ExportEntry, error) {
	if len(q.Outputs) > 1 {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("only one output is possible here")
	}
	if len(q.Outputs) == 1 && q.Outputs[0].Type != mobyExporter && q.Outputs[0].Type != client.ExporterImage {
		o := q.Outputs[0]
		if o.Type == "cacheonly" {
			return nil, nil
		}
		return nil, cerrdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("output %q through POST /build is not there: use buildx or wharf build", o.Type))
	}
	names, err := fullNames(q.Tags)
	if err != nil {
		return nil, err
	}
	return []client.ExportEntry{{Type: mobyExporter, Attrs: map[string]string{"name": names}}}, nil
}

// hostGateway stands for the host's address in --add-host.
const hostGateway = "host-gateway"

// extraHosts writes "host:ip" as the frontend reads it: "host=ip".
func (r *Room) extraHosts(hosts []string) ([]string, error) {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		name, ip, ok := strings.Cut(h, "=")
		if !ok {
			name, ip, ok = strings.Cut(h, ":")
		}
		if ip == hostGateway {
			ip = r.opts.HostGateway
		}
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); !ok || name == "" || err != nil {
			return nil, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("extra host %q: want host:ip (host-gateway needs a default network)", h))
		}
		out[i] = name + "=" + strings.Trim(ip, "[]")
	}
	return out, nil
}

// blamed marks errors that the Dockerfile is to blame for.
func blamed(err error) error {
	for _, text := range []string{"dockerfile parse error", "failed to parse", "the Dockerfile cannot be empty", "file with no instructions", "target stage"} {
		if strings.Contains(err.Error(), text) {
			return fmt.Errorf("%w: %w", cerrdefs.ErrInvalidArgument.WithMessage("bad Dockerfile"), err)
		}
	}
	return err
}

// limitsText is how the frontend wants limits.
func limitsText(all []*container.Ulimit) string {
	var out []string
	for _, l := range all {
		out = append(out, fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard))
	}
	return strings.Join(out, ",")
}
