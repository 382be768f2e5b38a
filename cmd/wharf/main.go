// Command wharf is the CLI: docker/cli's commands as a library under our
// name, and a few of our own. It talks only HTTP; it imports nothing of the
// engine.
//
// Where it finds the daemon, first that is set: -H or --context, WHARF_HOST,
// DOCKER_HOST, DOCKER_CONTEXT, the current context of Docker's configuration,
// unix:///run/wharf.sock. Docker's configuration directory, contexts,
// credential helpers and CLI plugins (docker-compose, docker-buildx) are used
// as they are.
//
// Exit codes are Docker's: 125 the daemon or the command line failed, 126 the
// command cannot be executed, 127 it was not found, 128+n on signal n.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	cliversion "github.com/docker/cli/cli/version"
	"github.com/sirupsen/logrus"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "" }

func main() {
	err := run(context.Background(), os.Args[1:])
	if err == nil {
		return
	}
	// A cancelled context is our own doing, on a signal.
	if text := err.Error(); text != "" && !errdefs.IsCanceled(err) {
		fmt.Fprintln(os.Stderr, ours(text))
	}
	if errdefs.IsCanceled(err) && !errors.As(err, new(signalled)) {
		return
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var sig signalled
	if errors.As(err, &sig) {
		return 128 + int(sig.Signal)
	}
	var st cli.StatusError
	if errors.As(err, &st) && st.StatusCode != 0 {
		return st.StatusCode
	}
	return 1
}

// onSignal returns a context that ends with SIGINT or SIGTERM. After three of
// them the process ends whatever it does.
func onSignal(parent context.Context, restore func()) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 3)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for n := 1; ; n++ {
			sig, ok := (<-ch).(syscall.Signal)
			if !ok {
				return
			}
			cancel(signalled{sig})
			if n == 3 {
				restore()
				fmt.Fprintln(os.Stderr, "\nstopped by the third signal")
				os.Exit(128 + int(sig))
			}
		}
	}()
	return ctx, func() { signal.Stop(ch); cancel(nil) }
}

func run(parent context.Context, args []string) error {
	cliversion.Version, cliversion.GitCommit, cliversion.PlatformName = version, commit, "wharf"
	if commit == "" {
		cliversion.GitCommit = "unknown"
	}
	cliversion.BuildTime = ""

	var dockerCLI *command.DockerCli
	ctx, stop := onSignal(parent, func() {
		if dockerCLI != nil { // the terminal may be in raw mode
			dockerCLI.In().RestoreTerminal()
			dockerCLI.Out().RestoreTerminal()
		}
	})
	defer stop()
	dockerCLI, err := command.NewDockerCli(command.WithBaseContext(ctx), command.WithUserAgent("wharf/"+version))
	if err != nil {
		return err
	}
	logrus.SetOutput(dockerCLI.Err())
	return execute(ctx, dockerCLI, args)
}
