package build

import (
	"context"
	"maps"

	"github.com/distribution/reference"
	bkexecutor "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// builtin answers for docker/dockerfile with the frontend in this process and
// pulls all others, as BuildKit does.
type builtin struct{ images, own frontend.Frontend }

func (b builtin) Solve(ctx context.Context, br frontend.FrontendLLBBridge, exec bkexecutor.Executor, opt map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	source := opt["source"]
	if !isDockerfile(source) {
		return b.images.Solve(ctx, br, exec, opt, inputs, sid, sm)
	}
	opt = maps.Clone(opt)
	delete(opt, "source")
	if _, ok := opt["cmdline"]; !ok {
		opt["cmdline"] = source // so that the syntax line is not followed again
	}
	_ = br.Warn(ctx, digest.FromString(source), "syntax "+source+" is served by wharf's built-in Dockerfile frontend", frontend.WarnOpts{Level: 1})
	return b.own.Solve(ctx, br, exec, opt, inputs, sid, sm)
}

// isDockerfile reports whether an image is Docker's Dockerfile frontend.
func isDockerfile(ref string) bool {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	switch n.Name() {
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream":
		return true
	}
	return false
}
