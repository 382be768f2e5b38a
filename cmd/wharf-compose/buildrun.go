package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	engineapi "github.com/moby/moby/client"
	"google.golang.org/grpc"
)

// run builds.
func (o *buildOptions) run(ctx context.Context, dockerCLI command.Cli) error {
	switch {
	case o.check:
		o.call = "check"
	case o.call != "build" && o.call != "check" && o.call != "outline" && o.call != "targets":
		return fmt.Errorf("--call %q: use build, check, outline or targets", o.call)
	}
	var quick quickSession
	c, err := connect(ctx, dockerCLI, &quick)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	opt, clean, err := o.solve(ctx, dockerCLI, c)
	if err != nil {
		return err
	}
	defer clean()
	opt.Session = append(opt.Session, &quick)
	if o.call != "build" {
		return o.ask(ctx, c, opt, dockerCLI.Out())
	}
	res, err := o.show(ctx, func(ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		return c.Solve(ctx, nil, opt, ch)
	})
	if err != nil {
		return o.explained(err)
	}
	return o.tell(dockerCLI, res.ExporterResponse)
}

// connect speaks BuildKit's API through the engine's socket.
func connect(ctx context.Context, dockerCLI command.Cli, quick *quickSession) (*client.Client, error) {
	engine := dockerCLI.Client()
	if _, err := engine.Ping(ctx, engineapi.PingOptions{}); err != nil {
		return nil, err
	}
	quick.dial = func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
		return engine.DialHijack(ctx, "/session", proto, meta)
	}
	return client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(quick.Dial))
}

// show runs a build with its progress on stderr.
func (o *buildOptions) show(ctx context.Context, build func(chan *client.SolveStatus) (*client.SolveResponse, error)) (*client.SolveResponse, error) {
	mode := progressui.DisplayMode(o.progress)
	if o.quiet {
		mode = progressui.QuietMode
	}
	display, err := progressui.NewDisplay(os.Stderr, mode)
	if err != nil {
		return nil, fmt.Errorf("--progress %s: %w", o.progress, err)
	}
	ch := make(chan *client.SolveStatus)
	shown := make(chan []client.VertexWarning, 1)
	go func() {
		// Not with ctx: a build that is cancelled still says how it ended.
		w, _ := display.UpdateFrom(context.WithoutCancel(ctx), ch)
		shown <- w
	}()
	res, err := build(ch)
	warnings := <-shown
	if err == nil && mode != progressui.QuietMode && mode != progressui.RawJSONMode {
		for _, w := range warnings {
			fmt.Fprintf(os.Stderr, "WARNING: %s\n", w.Short)
		}
	}
	return res, err
}

// ask has the frontend answer about the Dockerfile instead of building it.
func (o *buildOptions) ask(ctx context.Context, c *client.Client, opt client.SolveOpt, out io.Writer) error {
	name := map[string]string{"check": "lint", "outline": "outline", "targets": "targets"}[o.call]
	var answer map[string][]byte
	_, err := o.show(ctx, func(ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		return c.Build(ctx, opt, builder, func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			attrs := opt.FrontendAttrs
			attrs["requestid"], attrs["frontend.caps"] = "frontend."+name, "moby.buildkit.frontend.subrequests"
			res, err := g.Solve(ctx, gateway.SolveRequest{Frontend: opt.Frontend, FrontendOpt: attrs})
			if err == nil {
				answer = res.Metadata
			}
			return res, err
		}, ch)
	})
	if err != nil {
		return o.explained(err)
	}
	text := strings.TrimSpace(string(answer["result.txt"]))
	if text == "" && o.call == "check" {
		text = "No mistakes found."
	}
	fmt.Fprintln(out, text)
	if code := string(answer["result.statuscode"]); code != "" && code != "0" {
		return cli.StatusError{StatusCode: 1}
	}
	return nil
}

// tell writes the result where the flags say.
func (o *buildOptions) tell(dockerCLI command.Cli, res map[string]string) error {
	id := res[exptypes.ExporterImageDigestKey]
	if o.metadata != "" {
		if err := writeMetadata(o.metadata, res); err != nil {
			return err
		}
	}
	if o.iid != "" {
		if err := os.WriteFile(o.iid, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if o.quiet && id != "" {
		fmt.Fprintln(dockerCLI.Out(), id)
	}
	return nil
}

// explained adds a remedy to what a person cannot guess.
func (o *buildOptions) explained(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "buildkit-syft-scanner"):
		return fmt.Errorf("%w\n--sbom runs a scanner's image; without a way to docker.io name another: --attest type=sbom,generator=IMAGE", err)
	}
	return err
}

// printError prints an error, with the lines of the Dockerfile that it is
// about.
func printError(w io.Writer, err error) {
	for _, s := range errdefs.Sources(err) {
		_ = s.Print(w)
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(w, "ERROR:", text)
	}
}

// credentials answers BuildKit with those of Docker's configuration.
type credentials struct {
	auth.UnimplementedAuthServer
	config *configfile.ConfigFile
}

// Register implements session.Attachable.
func (c *credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// Credentials implements auth.AuthServer. None is no error.
func (c *credentials) Credentials(_ context.Context, q *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := q.Host
	if host == "registry-1.docker.io" || host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	a, err := c.config.GetAuthConfig(host)
	if err != nil {
		return nil, errors.Join(errors.New("credentials of "+q.Host), err)
	}
	if a.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: a.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: a.Username, Secret: a.Password}, nil
}
