package build

import (
	"archive/tar"
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
	a := &adapted{Client: c, opts: opts}
	if err := a.archive(ctx); err != nil {
		return nil, err
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

// archive prepares a context that comes by http and is an archive: BuildKit
// does not know those that begin with a PAX header (Python's), and the classic
// builder takes the Dockerfile and .dockerignore out if .dockerignore lists
// them; clients apply the rest of it before they send.
func (a *adapted) archive(ctx context.Context) error {
	classic := a.opts[optClassic] != ""
	delete(a.opts, optClassic)
	st, name, ok := dockerui.DetectHTTPContext(a.opts[optContext])
	if !ok {
		return nil
	}
	head, err := a.file(ctx, *st, name, &gateway.FileRange{Length: 512})
	if err != nil {
		return nil //nolint:nilerr // the frontend tries it again and tells
	}
	whole := llb.Scratch().File(llb.Copy(*st, "/"+name, "/", &llb.CopyInfo{AttemptUnpack: true}))
	rest, changed := whole, isPAX(head)
	if classic {
		if gone := a.ignored(ctx, whole); len(gone) > 0 {
			files := llb.Rm(gone[0], llb.WithAllowNotFound(true))
			for _, f := range gone[1:] {
				files = files.Rm(f, llb.WithAllowNotFound(true))
			}
			rest, changed = whole.File(files, llb.WithCustomName("[internal] .dockerignore")), true
		}
	}
	if changed {
		a.inputs = map[string]llb.State{dockerui.DefaultLocalNameContext: rest, dockerui.DefaultLocalNameDockerfile: whole}
		delete(a.opts, optContext)
	}
	return nil
}

// file reads a file of a state.
func (a *adapted) file(ctx context.Context, st llb.State, name string, part *gateway.FileRange) ([]byte, error) {
	def, err := st.Marshal(ctx, llb.WithCaps(a.Client.BuildOpts().Caps))
	if err != nil {
		return nil, err
	}
	res, err := a.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, err
	}
	return ref.ReadFile(ctx, gateway.ReadRequest{Filename: name, Range: part})
}

// isPAX reports whether a file's first block is a PAX header of a tar.
func isPAX(head []byte) bool {
	return len(head) >= 263 && string(head[257:262]) == "ustar" && (head[156] == tar.TypeXHeader || head[156] == tar.TypeXGlobalHeader)
}

// ignored says what a context's .dockerignore takes out that clients leave in.
func (a *adapted) ignored(ctx context.Context, whole llb.State) []string {
	text, err := a.file(ctx, whole, dockerui.DefaultDockerignoreName, nil)
	if err != nil {
		return nil // there is none, or it is no archive
	}
	return ignored(text, a.opts[optDockerfile])
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
