package main

import (
	"context"
	"os"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
)

// buildName is what wharf-compose is called when it is `wharf build`.
const buildName = "wharf-build"

// addBuild adds `wharf build` and `wharf image build`. They become
// wharf-compose, which has BuildKit's client: its initialisation alone takes
// as long as the whole of `wharf ps`. args is wharf's whole command line.
func addBuild(root *cobra.Command, dockerCLI *command.DockerCli, opts *flags.ClientOptions, args []string) {
	become := func(ctx context.Context, args []string) error {
		path := findCompose()
		if path == "" {
			if found, err := runPlugin(ctx, dockerCLI, root, opts, "buildx"); found {
				return err
			}
			return cli.StatusError{StatusCode: 1, Status: "wharf build: " + composeBinary +
				" is neither beside wharf nor on PATH (make install puts it there)"}
		}
		return os.NewSyscallError("exec "+path, syscall.Exec(path, append([]string{buildName}, args...), composeEnv(opts)))
	}
	add := func(to *cobra.Command) {
		cmd := &cobra.Command{
			Use:                "build [OPTIONS] PATH | URL | -",
			Short:              "Build an image from a Dockerfile",
			DisableFlagParsing: true,
			RunE:               func(cmd *cobra.Command, _ []string) error { return become(cmd.Context(), args) },
		}
		cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
			if err := become(cmd.Context(), []string{"build", "--help"}); err != nil {
				cmd.PrintErrln(err)
			}
		})
		to.AddCommand(cmd)
	}
	add(root)
	for _, c := range root.Commands() {
		if c.Name() == "image" {
			add(c)
		}
	}
}
