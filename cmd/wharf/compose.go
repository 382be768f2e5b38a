package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
)

// composeBinary is Compose as a library, in a program of its own: linked in
// here it would double the time that every command takes to start.
const composeBinary = "wharf-compose"

// composeCommand is `wharf compose`. It becomes wharf-compose (execve), so that
// signals, terminal and exit code are that one's. args is wharf's whole command
// line: the global options in it are for Compose to read.
func composeCommand(dockerCLI *command.DockerCli, root *cobra.Command, opts *flags.ClientOptions, args []string) *cobra.Command {
	become := func(ctx context.Context, args []string) error {
		path := findCompose()
		if path == "" {
			if found, err := runPlugin(ctx, dockerCLI, root, opts, "compose"); found {
				return err
			}
			return cli.StatusError{StatusCode: 1, Status: "wharf compose: " + composeBinary +
				" is neither beside wharf nor on PATH (make install puts it there), and there is no docker-compose plugin"}
		}
		argv := append([]string{composeBinary}, args...)
		return os.NewSyscallError("exec "+path, syscall.Exec(path, argv, composeEnv(opts)))
	}
	cmd := &cobra.Command{
		Use:                "compose",
		Short:              "Define and run applications of several containers (Compose)",
		DisableFlagParsing: true,
		RunE:               func(cmd *cobra.Command, _ []string) error { return become(cmd.Context(), args) },
		ValidArgsFunction: func(cmd *cobra.Command, words []string, last string) ([]string, cobra.ShellCompDirective) {
			line := append([]string{cobra.ShellCompRequestCmd, cmd.Name()}, words...)
			_ = become(cmd.Context(), append(line, last))
			return nil, cobra.ShellCompDirectiveError
		},
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { // wharf help compose
		if err := become(cmd.Context(), []string{"compose", "--help"}); err != nil {
			cmd.PrintErrln(err)
		}
	})
	return cmd
}

// findCompose returns the path of wharf-compose, "" when it is not there.
func findCompose() string {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), composeBinary); executable(path) {
			return path
		}
	}
	if path, err := exec.LookPath(composeBinary); err == nil || errors.Is(err, exec.ErrDot) {
		return path
	}
	return ""
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// composeEnv is the environment of Compose: who called it, and our daemon
// unless the command line or the environment names one.
func composeEnv(opts *flags.ClientOptions) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, metadata.ReexecEnvvar+"=") {
			env = append(env, e)
		}
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	env = append(env, metadata.ReexecEnvvar+"="+self)
	if len(opts.Hosts) == 1 && os.Getenv("DOCKER_HOST") == "" {
		env = append(env, "DOCKER_HOST="+opts.Hosts[0])
	}
	return env
}
