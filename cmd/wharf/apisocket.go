package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// dockerSocket is where docker/cli takes the engine's socket to be, and where
// clients inside a container look for it.
const dockerSocket = "/var/run/docker.sock"

// addAPISocket has --use-api-socket bind the socket that this client speaks
// to; docker/cli binds the place of dockerd's.
func addAPISocket(root *cobra.Command, dockerCLI *command.DockerCli) error {
	for _, path := range [][]string{{"run"}, {"create"}, {"container", "run"}, {"container", "create"}} {
		cmd, _, err := root.Find(path)
		if err != nil {
			return err
		}
		flag := cmd.Flags().Lookup("use-api-socket")
		if flag == nil {
			return fmt.Errorf("%s has no --use-api-socket", cmd.CommandPath())
		}
		before := cmd.PreRunE
		cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
			if flag.Changed && flag.Value.String() == "true" {
				at, ok := strings.CutPrefix(dockerCLI.DockerEndpoint().Host, "unix://")
				if !ok {
					return errors.New("--use-api-socket: the engine is not reached by a unix socket (" + dockerCLI.DockerEndpoint().Host + "); give its socket with -v PATH:" + dockerSocket)
				}
				if err := command.WithAPIClient(socketClient{dockerCLI.Client(), at})(dockerCLI); err != nil {
					return err
				}
			}
			if before != nil {
				return before(cmd, args)
			}
			return nil
		}
	}
	return nil
}

// socketClient creates containers with the socket of this engine where
// docker/cli asked for dockerd's.
type socketClient struct {
	client.APIClient
	path string
}

func (c socketClient) ContainerCreate(ctx context.Context, o client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
	for i, m := range o.HostConfig.Mounts {
		if m.Type == mount.TypeBind && m.Source == dockerSocket && m.Target == dockerSocket {
			o.HostConfig.Mounts[i].Source = c.path
		}
	}
	return c.APIClient.ContainerCreate(ctx, o)
}
