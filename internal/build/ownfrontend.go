package build

import (
	"bytes"
	"context"
	"maps"
	"strings"

	"github.com/moby/buildkit/client/llb"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Options of the Dockerfile frontend that are read here.
const (
	optNetwork    = "force-network-mode"
	optCgroup     = "cgroup-parent"
	optContext    = "context"
	optDockerfile = "filename"
	// optClassic marks a context as the classic builder has it: what its
	// .dockerignore says of the Dockerfile and of itself still has to be done.
	optClassic = "wharf-classic-context"
)

// buildDockerfile is BuildKit's Dockerfile frontend with what docker's classic
// builder has beside it: networks by name, and .dockerignore in a tar.
func buildDockerfile(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	o := c.BuildOpts()
	opts := maps.Clone(o.Opts)
	if n := opts[optNetwork]; !plainNetwork(n) {
		delete(opts, optNetwork)
		opts[optCgroup] = onNetwork(n, opts[optCgroup])
	}
	classic := opts[optClassic] != ""
	delete(opts, optClassic)
	a := &adapted{Client: c, opts: opts}
	if classic {
		if err := a.ignore(ctx); err != nil {
			return nil, err
		}
	}
	return dockerfile.Build(ctx, a)
}

// plainNetwork reports whether BuildKit itself knows a network mode.
func plainNetwork(mode string) bool {
	switch mode {
	case "", "sandbox", "host", "none":
		return true
	}
	return false
}

// networkMark stands before the name of a network in a step's cgroup-parent:
// BuildKit has no word for networks with names, and hands this one to the
// executor as it is.
const networkMark = "wharf.network="

func onNetwork(name, cgroup string) string { return networkMark + name + ";" + cgroup }

// networkOf takes them apart.
func networkOf(cgroup string) (network, rest string) {
	if marked, ok := strings.CutPrefix(cgroup, networkMark); ok {
		network, rest, _ = strings.Cut(marked, ";")
		return network, rest
	}
	return "", cgroup
}

// adapted is a frontend's client with other options and inputs.
type adapted struct {
	gateway.Client
	opts   map[string]string
	inputs map[string]llb.State
}

// BuildOpts implements gateway.Client.
func (a *adapted) BuildOpts() gateway.BuildOpts {
	o := a.Client.BuildOpts()
	o.Opts = maps.Clone(a.opts)
	return o
}

// Inputs implements gateway.Client.
func (a *adapted) Inputs(ctx context.Context) (map[string]llb.State, error) {
	if a.inputs != nil {
		return a.inputs, nil
	}
	return a.Client.Inputs(ctx)
}

// ignore takes the Dockerfile and .dockerignore out of the context if
// .dockerignore lists them. Clients apply the rest of it before they send.
func (a *adapted) ignore(ctx context.Context) error {
	st, name, ok := dockerui.DetectHTTPContext(a.opts[optContext])
	if !ok {
		return nil
	}
	whole := llb.Scratch().File(llb.Copy(*st, "/"+name, "/", &llb.CopyInfo{AttemptUnpack: true}))
	def, err := whole.Marshal(ctx, llb.WithCaps(a.Client.BuildOpts().Caps))
	if err != nil {
		return err
	}
	res, err := a.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return err
	}
	text, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: dockerui.DefaultDockerignoreName})
	if err != nil {
		return nil //nolint:nilerr // there is none, or it is no archive
	}
	gone := ignored(text, a.opts[optDockerfile])
	if len(gone) == 0 {
		return nil
	}
	files := llb.Rm(gone[0], llb.WithAllowNotFound(true))
	for _, f := range gone[1:] {
		files = files.Rm(f, llb.WithAllowNotFound(true))
	}
	rest := whole.File(files, llb.WithCustomName("[internal] .dockerignore"))
	a.inputs = map[string]llb.State{dockerui.DefaultLocalNameContext: rest, dockerui.DefaultLocalNameDockerfile: whole}
	delete(a.opts, optContext)
	return nil
}

// ignored says which of the Dockerfile and .dockerignore a .dockerignore
// lists. One that cannot be read lists nothing: the frontend complains of it.
func ignored(text []byte, dockerfile string) (out []string) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil
	}
	for _, f := range []string{dockerfile, dockerui.DefaultDockerignoreName} {
		if hit, err := m.MatchesOrParentMatches(f); err == nil && hit {
			out = append(out, f)
		}
	}
	return out
}
