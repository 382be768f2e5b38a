package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"google.golang.org/protobuf/proto"

	"wharf/internal/model"
)

// uploadRequest is what stands before a build's id in a request that only
// brings the context of that build.
const uploadRequest = "upload-request:"

// traceGrace is how long the last messages of a build are waited for.
const traceGrace = 5 * time.Second

// traced serves POST /build?version=2: BuildKit at the classic address, as
// docker 18.09 to 20.10 speak to it with DOCKER_BUILDKIT=1. The client's files,
// secrets and credentials come by its session, progress goes out as BuildKit's
// own messages.
func (r *Room) traced(ctx context.Context, k *kit, q model.BuildRequest, body io.Reader, send model.Progress) error {
	opt, err := solveOptions(q)
	if err != nil {
		return err
	}
	req, err := traceRequest(q, opt)
	if err != nil {
		return err
	}
	switch q.Remote {
	case "client-session":
		if q.Session == "" {
			return cerrdefs.ErrInvalidArgument.WithMessage("remote=client-session: session= is missing")
		}
	case "upload-request":
		if q.ID == "" {
			return cerrdefs.ErrInvalidArgument.WithMessage("remote=upload-request: buildid= is missing")
		}
		req.FrontendAttrs["context"] = uploadURL(uploadRequest + q.ID)
	case "":
		req.FrontendAttrs["context"] = uploadURL(req.Ref)
		go func() { _ = k.uploads.offer(ctx, req.Ref, body, 0) }()
	default:
		req.FrontendAttrs["context"] = q.Remote
	}
	if req.Session == "" {
		var end func()
		if req.Session, end, err = k.session(ctx, &credentials{all: q.Auth}); err != nil {
			return err
		}
		defer end()
	}
	if q.Quiet {
		return k.solveQuietly(ctx, req, send)
	}
	id, err := k.solveTraced(ctx, req, send)
	if err == nil && id != "" {
		var a traceImage
		a.ID, a.Aux.ID = "moby.image.id", id
		send(a)
	}
	return err
}

// solveQuietly tells nothing but the id, or all when it fails.
func (k *kit) solveQuietly(ctx context.Context, req *controlapi.SolveRequest, send model.Progress) error {
	var all []any
	id, err := k.solveTraced(ctx, req, func(m any) { all = append(all, m) })
	if err != nil {
		for _, m := range all {
			send(m)
		}
		return err
	}
	if id != "" {
		send(streamMessage{id + "\n"})
	}
	return nil
}

// traceMessage and traceImage are what those clients read.
type traceMessage struct {
	ID  string `json:"id"`
	Aux []byte `json:"aux"`
}

type traceImage struct {
	ID  string `json:"id"`
	Aux struct {
		ID string `json:"ID"`
	} `json:"aux"`
}

// traceRequest is a solve in BuildKit's own words.
func traceRequest(q model.BuildRequest, opt client.SolveOpt) (*controlapi.SolveRequest, error) {
	req := &controlapi.SolveRequest{
		Ref: identity.NewID(), Session: q.Session, Frontend: opt.Frontend, FrontendAttrs: opt.FrontendAttrs,
		Cache: &controlapi.CacheOptions{}, Entitlements: opt.AllowedEntitlements,
	}
	for _, e := range opt.Exports {
		req.Exporters = append(req.Exporters, &controlapi.Exporter{Type: e.Type, Attrs: e.Attrs})
	}
	if len(opt.CacheImports) > 0 {
		b, err := json.Marshal(opt.CacheImports)
		if err != nil {
			return nil, err
		}
		req.FrontendAttrs["cache-imports"] = string(b)
	}
	for _, e := range opt.CacheExports {
		req.Cache.Exports = append(req.Cache.Exports, &controlapi.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	return req, nil
}

// solveTraced builds and sends BuildKit's messages; it returns the image's id.
func (k *kit) solveTraced(ctx context.Context, req *controlapi.SolveRequest, send model.Progress) (string, error) {
	// Not with ctx: a build that is cancelled still says how it ended.
	seen, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	shown := make(chan error, 1)
	go func() { shown <- k.trace(seen, req.Ref, send) }()
	res, err := k.client.ControlClient().Solve(ctx, req)
	late := time.AfterFunc(traceGrace, stop)
	defer late.Stop()
	if terr := <-shown; err == nil && seen.Err() == nil {
		err = terr
	}
	if err != nil {
		return "", blamed(err)
	}
	return res.ExporterResponse[exptypes.ExporterImageDigestKey], nil
}

// trace sends a build's messages until it has ended.
func (k *kit) trace(ctx context.Context, ref string, send model.Progress) error {
	st, err := k.client.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return err
	}
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		send(traceMessage{ID: "moby.buildkit.trace", Aux: b})
	}
}

// session makes a session of this process's own.
func (k *kit) session(ctx context.Context, all ...session.Attachable) (id string, end func(), err error) {
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return "", nil, err
	}
	for _, a := range all {
		s.Allow(a)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		_ = s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() { _ = k.sessions.HandleConn(ctx, there, meta) }()
			return here, nil
		})
	}()
	return s.ID(), func() { _ = s.Close(); stop() }, nil
}

// inlineCache reports whether a build argument asks for a cache in the image,
// which is how clients without --cache-to say it.
func inlineCache(q model.BuildRequest) bool {
	v := q.Args["BUILDKIT_INLINE_CACHE"]
	if v == nil {
		return false
	}
	on, err := strconv.ParseBool(*v)
	return err == nil && on
}

// tracedExports are all that BuildKit has: what is written on the client's
// side goes by its session.
func tracedExports(q model.BuildRequest) ([]client.ExportEntry, error) {
	if len(q.Outputs) > 1 {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("only one output is possible here")
	}
	e := client.ExportEntry{Type: mobyExporter, Attrs: map[string]string{}}
	if len(q.Outputs) == 1 {
		e.Type = q.Outputs[0].Type
		maps.Copy(e.Attrs, q.Outputs[0].Attrs)
	}
	named := false
	switch e.Type {
	case "cacheonly":
		return nil, nil
	case "registry":
		e.Type, e.Attrs["push"], named = client.ExporterImage, "true", true
	case mobyExporter, client.ExporterImage:
		named = true
	case client.ExporterLocal, client.ExporterTar, client.ExporterOCI, client.ExporterDocker:
		if q.Session == "" {
			return nil, cerrdefs.ErrInvalidArgument.WithMessage("output " + strconv.Quote(e.Type) + " is written by the client: it needs session=")
		}
		named = e.Type == client.ExporterOCI || e.Type == client.ExporterDocker
	default:
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("output " + strconv.Quote(e.Type) + " is not there: image, registry, local, tar, oci, docker or cacheonly")
	}
	if named && e.Attrs["name"] == "" && len(q.Tags) > 0 {
		names, err := fullNames(q.Tags)
		if err != nil {
			return nil, err
		}
		e.Attrs["name"] = names
	}
	return []client.ExportEntry{e}, nil
}

// fullNames are tags with all that people leave out, as BuildKit has them.
func fullNames(tags []string) (string, error) {
	out := make([]string, 0, len(tags))
	for _, t := range tags {
		n, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return "", cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("tag %q: %v", t, err))
		}
		if _, ok := n.(reference.Digested); ok {
			return "", cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("tag %q: a digest cannot be a tag", t))
		}
		out = append(out, reference.TagNameOnly(n).String())
	}
	return strings.Join(out, ","), nil
}
