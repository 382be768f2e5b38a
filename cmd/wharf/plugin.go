package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	pluginmanager "github.com/docker/cli/cli-plugins/manager"
	"github.com/docker/cli/cli-plugins/socket"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
)

// runPlugin runs the docker CLI plugin of that name (docker-compose, ...).
// Plugins are only looked for when a command is not ours: that costs nothing
// on the way to a container.
func runPlugin(ctx context.Context, dockerCLI *command.DockerCli, root *cobra.Command, opts *flags.ClientOptions, name string) (found bool, err error) {
	p, err := pluginmanager.PluginRunCommand(dockerCLI, name, root)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	if p.Env == nil {
		p.Env = os.Environ()
	}
	// A plugin reads -H from its arguments, but does not know our default.
	if len(opts.Hosts) == 1 && os.Getenv("DOCKER_HOST") == "" {
		p.Env = append(p.Env, "DOCKER_HOST="+opts.Hosts[0])
	}
	// A plugin ends when this socket closes: without a terminal it does not
	// see the signals that we get.
	srv, serr := socket.NewPluginServer(nil)
	if serr == nil {
		p.Env = append(p.Env, socket.EnvKey+"="+srv.Addr().String())
		defer func() { _ = srv.Close() }()
	}
	if err := p.Start(); err != nil {
		return true, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		if dockerCLI.Out().IsTerminal() {
			return // the terminal sends it the signal
		}
		if srv != nil {
			_ = srv.Close()
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = p.Process.Signal(syscall.SIGTERM)
		}
	}()
	err = p.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return true, cli.StatusError{StatusCode: exit.ExitCode()}
	}
	return true, err
}
