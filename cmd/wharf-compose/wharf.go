package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	_ "unsafe" // go:linkname

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	commands "github.com/docker/compose/v5/cmd/compose"
	"github.com/spf13/cobra"
)

// defaultHost is where wharfd listens.
const defaultHost = "unix:///run/wharf.sock"

// composeVersion is what `compose version` prints and what containers carry in
// a label. Compose's own build sets it by a linker flag; ours knows it from
// go.mod.
//
//go:linkname composeVersion github.com/docker/compose/v5/internal.Version
var composeVersion string

// pointAtWharf makes wharf's daemon the default where docker's would be, by
// the rules of the wharf CLI. args are a plugin's: docker's own options, then
// compose.
func pointAtWharf(args []string) {
	for _, a := range args {
		if a == commands.PluginName {
			break
		}
		name, _, _ := strings.Cut(a, "=")
		if slices.Contains([]string{"-H", "--host", "--context"}, name) {
			return
		}
	}
	if h := os.Getenv("WHARF_HOST"); h != "" {
		_ = os.Setenv("DOCKER_HOST", h)
	}
	if os.Getenv("DOCKER_HOST") != "" || os.Getenv("DOCKER_CONTEXT") != "" {
		return
	}
	if cfg, err := config.Load(config.Dir()); err == nil && cfg.CurrentContext != "" && cfg.CurrentContext != command.DefaultContextName {
		return
	}
	_ = os.Setenv("DOCKER_HOST", defaultHost)
}

// helpAsWharf prints a command's help with our name in it.
func helpAsWharf(cmd *cobra.Command, args []string) {
	inherited := cmd.Root().HelpFunc()
	out := cmd.OutOrStdout()
	var text bytes.Buffer
	cmd.SetOut(&text)
	inherited(cmd, args)
	cmd.SetOut(out)
	_, _ = out.Write([]byte(strings.ReplaceAll(text.String(), "docker compose", "wharf compose")))
}
