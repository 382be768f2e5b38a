package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func runCommandCommand(dockerCLI command.Cli) *cobra.Command {
	var compose, docker bool
	cmd := &cobra.Command{
		Use:   "run-command [OPTIONS] CONTAINER",
		Short: "Print the command line that makes the same container again",
		Long: `Print the command line that makes the same container again: every option that differs
from what its image and the engine give anyway. With --compose it is a Compose file.

It needs nothing but Docker's API: with DOCKER_HOST or a context of another engine it
tells how that engine's containers are made here.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := recipeOf(cmd.Context(), dockerCLI, args[0])
			if err != nil {
				return err
			}
			program := "wharf"
			if docker {
				program = "docker"
			}
			text := ""
			if compose {
				text = r.compose()
			} else {
				text = r.commandLine(program) + "\n"
			}
			for _, n := range r.notes {
				fmt.Fprintln(dockerCLI.Err(), "NOTE:", n)
			}
			_, err = fmt.Fprint(dockerCLI.Out(), text)
			return err
		},
		ValidArgsFunction:     completion.ContainerNames(dockerCLI, true),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&compose, "compose", false, "Print a Compose file")
	cmd.Flags().BoolVar(&docker, "docker", false, `Print a command line of Docker's CLI instead of ours`)
	return cmd
}

// recipeOf asks the engine for the container, its image and the defaults.
func recipeOf(ctx context.Context, dockerCLI command.Cli, ref string) (*recipe, error) {
	api := dockerCLI.Client()
	got, err := api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	c := &got.Container
	info, err := api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, err
	}
	var image *container.Config
	if img, err := api.ImageInspect(ctx, c.Image); err == nil && img.Config != nil {
		image = &container.Config{
			Env: img.Config.Env, Labels: img.Config.Labels, User: img.Config.User, WorkingDir: img.Config.WorkingDir, StopSignal: img.Config.StopSignal,
			Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd, Volumes: img.Config.Volumes, Healthcheck: img.Config.Healthcheck,
		}
		image.ExposedPorts = exposed(img.Config.ExposedPorts)
	}
	r := newRecipe(c, image, &info.Info)
	if named, err := api.ImageInspect(ctx, c.Config.Image); image != nil && (err != nil || named.ID != c.Image) {
		r.note("%s is another image now, or none: the container's is named by its id", c.Config.Image)
		r.image = strings.TrimPrefix(c.Image, "sha256:")
	}
	return r, nil
}

// exposed reads an image's ports.
func exposed(in map[string]struct{}) network.PortSet {
	out := network.PortSet{}
	for text := range in {
		if p, err := network.ParsePort(text); err == nil {
			out[p] = struct{}{}
		}
	}
	return out
}
