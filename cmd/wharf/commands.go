package main

import (
	_ "unsafe" // go:linkname

	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	// The groups of commands that we have; each registers itself.
	_ "github.com/docker/cli/cli/command/builder"
	_ "github.com/docker/cli/cli/command/container"
	_ "github.com/docker/cli/cli/command/context"
	_ "github.com/docker/cli/cli/command/image"
	_ "github.com/docker/cli/cli/command/manifest"
	_ "github.com/docker/cli/cli/command/network"
	_ "github.com/docker/cli/cli/command/registry"
	_ "github.com/docker/cli/cli/command/system"
	_ "github.com/docker/cli/cli/command/volume"
)

// registered is docker/cli's list of commands. Its only public reader,
// commands.AddCommands, imports every group there is: stack's JSON schemas
// and swarm's protocol buffers alone are half of the time that a CLI with it
// takes to start.
//
//go:linkname registered github.com/docker/cli/internal/commands.commands
var registered []func(command.Cli) *cobra.Command

// addCommands adds docker/cli's commands to root.
func addCommands(root *cobra.Command, dockerCLI command.Cli) {
	for _, c := range registered {
		root.AddCommand(c(dockerCLI))
	}
}
