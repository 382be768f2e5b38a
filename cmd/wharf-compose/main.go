// Command wharf-compose is Docker Compose as a library: the commands, files
// and behaviour of github.com/docker/compose, at the version that go.mod pins.
//
// It is a program of its own because the library's initialisation costs as
// much time as the whole of `wharf ps`. It is started as
//
//	wharf compose ...          wharf executes it
//	docker compose ...         as a CLI plugin, by the name docker-compose
//	wharf-compose ...          by itself, also by the name docker-compose
//	wharf-build ...            `wharf build`: see build.go
//
// Started by wharf or by its own name it looks for the daemon where wharf
// does; as docker's plugin, or by docker-compose's name, where docker does.
// It speaks only Docker's API and imports nothing of the engine.
package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/plugin"
	"github.com/docker/cli/cli/command"
	"github.com/docker/compose/v5/cmd/compatibility"
	commands "github.com/docker/compose/v5/cmd/compose"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/spf13/cobra"
)

const module = "github.com/docker/compose/v5"

func main() {
	composeVersion = linkedVersion()
	if isBuilder(os.Args[0]) {
		os.Exit(buildMain(os.Args[1:]))
	}
	caller := os.Getenv(metadata.ReexecEnvvar)
	if caller == "" && !pluginQuestion(os.Args) {
		caller = os.Args[0]
		os.Args = append([]string{caller}, compatibility.Convert(os.Args[1:])...)
		if isOurs(caller) {
			pointAtWharf(os.Args[1:])
		}
	}
	plugin.Run(func(c command.Cli) *cobra.Command { return newCommand(c, isOurs(caller)) }, metadata.Metadata{
		SchemaVersion:    "0.1.0",
		Vendor:           "wharf",
		Version:          composeVersion,
		ShortDescription: "Docker Compose",
	}, command.WithUserAgent("wharf-compose/"+composeVersion))
}

// pluginQuestion reports whether docker asks what this plugin is.
func pluginQuestion(args []string) bool {
	return len(args) > 1 && args[1] == metadata.MetadataSubcommandName
}

// isOurs reports whether a program of that name is wharf's, not docker's.
func isOurs(program string) bool { return strings.HasPrefix(filepath.Base(program), "wharf") }

// newCommand makes Compose's tree of commands.
func newCommand(dockerCLI command.Cli, ours bool) *cobra.Command {
	cmd := commands.RootCommand(dockerCLI, &commands.BackendOptions{Options: []compose.Option{
		compose.WithPrompt(prompt.NewPrompt(dockerCLI.In(), dockerCLI.Out()).Confirm),
	}})
	own := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		if err := plugin.PersistentPreRunE(c, args); err != nil {
			return err
		}
		if own == nil {
			return nil
		}
		return own(c, args)
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return cli.StatusError{StatusCode: 1, Status: err.Error()}
	})
	if ours {
		cmd.SetHelpFunc(helpAsWharf)
	}
	return cmd
}

// linkedVersion is the version of the library in this binary.
func linkedVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return "unknown"
}
