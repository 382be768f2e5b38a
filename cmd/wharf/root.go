package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/docker/cli/cli"
	pluginmanager "github.com/docker/cli/cli-plugins/manager"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
)

// absent are docker/cli's commands for what the engine does not have yet.
// They are taken out of the tree; naming one says why.
var absent = map[string]string{
	"swarm": "swarm mode", "node": "swarm mode", "service": "swarm mode",
	"stack": "swarm mode", "secret": "swarm mode", "config": "swarm mode",
	"plugin":     "engine plugins",
	"checkpoint": "checkpoint and restore",
	"bake":       "bake",
}

// execute runs one command line.
func execute(ctx context.Context, dockerCLI *command.DockerCli, args []string) error {
	root, opts := newRoot(dockerCLI)
	root.AddCommand(composeCommand(dockerCLI, root, opts, args))
	addBuild(root, dockerCLI, opts, args)
	top := cli.NewTopLevelCommand(root, dockerCLI, opts, root.Flags())
	top.SetArgs(args)
	_, rest, err := top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	daemonFor(opts)
	if err := top.Initialize(); err != nil {
		return err
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(rest...)
	if len(rest) > 0 && strings.HasPrefix(rest[0], "__complete") { // the shell asks
		if err := pluginmanager.AddPluginCommandStubs(dockerCLI, root); err != nil {
			return err
		}
	} else if len(rest) > 0 {
		if _, _, err := root.Find(rest); err != nil {
			return unknown(ctx, dockerCLI, root, opts, rest[0])
		}
	}
	root.SetArgs(rest)
	return root.ExecuteContext(ctx)
}

// unknown runs a CLI plugin, or says why a command is not there.
func unknown(ctx context.Context, dockerCLI *command.DockerCli, root *cobra.Command, opts *flags.ClientOptions, name string) error {
	if found, err := runPlugin(ctx, dockerCLI, root, opts, name); found {
		return err
	}
	if what := absent[name]; what != "" {
		return cli.StatusError{Status: fmt.Sprintf("wharf %s: this version has no %s yet", name, what), StatusCode: 1}
	}
	return cli.StatusError{
		Status:     fmt.Sprintf("wharf: unknown command: wharf %s\n\nRun 'wharf --help' for more information", name),
		StatusCode: 1,
	}
}

// newRoot makes the tree of commands.
func newRoot(dockerCLI *command.DockerCli) (*cobra.Command, *flags.ClientOptions) {
	var opts *flags.ClientOptions
	root := &cobra.Command{
		Use:              "wharf [OPTIONS] COMMAND [ARG...]",
		Short:            "One engine for containers and virtual machines",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.ShowHelp(dockerCLI.Err())(cmd, args)
			}
			return unknown(cmd.Context(), dockerCLI, cmd, opts, args[0])
		},
		PersistentPreRunE:     func(cmd *cobra.Command, _ []string) error { return supported(cmd, dockerCLI) },
		Version:               version,
		DisableFlagsInUseLine: true,
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetIn(dockerCLI.In())
	root.SetOut(dockerCLI.Out())
	root.SetErr(dockerCLI.Err())

	opts, _ = cli.SetupRootCommand(root)
	root.SetVersionTemplate("wharf version {{.Version}}" + build() + "\n")
	root.Flags().BoolP("version", "v", false, "Print version information and quit")
	root.Flags().Lookup("host").Usage = "Daemon socket to connect to (default unix:///run/wharf.sock)"
	root.Annotations["additionalHelp"] = ""
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if cmd == root {
			_ = pluginmanager.AddPluginCommandStubs(dockerCLI, root) // a broken plugin is no reason for no help
		}
		rename(cmd)
		help(cmd, args)
	})

	addCommands(root, dockerCLI)
	prune(root)
	root.AddCommand(doctorCommand(dockerCLI))
	addSystem(root, dockerCLI)
	addNetwork(root, dockerCLI)
	addVolume(root, dockerCLI)
	root.AddCommand(trashCommand(dockerCLI), runCommandCommand(dockerCLI), registryCommand(dockerCLI))
	if err := errors.Join(addRemoved(root, dockerCLI), addTiming(root, dockerCLI), addVM(root), addAPISocket(root, dockerCLI), addImageCopy(root, dockerCLI), addImageTrust(root, dockerCLI), addAttestations(root, dockerCLI)); err != nil {
		panic(err) // docker/cli has changed its commands; every test finds it
	}
	return root, opts
}

func build() string {
	if commit == "" {
		return ""
	}
	return ", build " + commit
}

// prune takes out what the engine does not have: the commands themselves and
// their longer forms.
func prune(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if absent[cmd.Name()] != "" || cmd.Name() == "build" { // build: see addBuild
			root.RemoveCommand(cmd)
			continue
		}
		for _, sub := range cmd.Commands() { // the classic builder's
			if (cmd.Name() == "image" || cmd.Name() == "builder") && sub.Name() == "build" {
				cmd.RemoveCommand(sub)
			}
		}
	}
}

// supported refuses commands and flags that an older daemon does not know.
// The daemon is asked only when something needs it.
func supported(cmd *cobra.Command, dockerCLI command.Cli) error {
	for c := cmd; c != nil; c = c.Parent() {
		if want := c.Annotations["version"]; want != "" && older(dockerCLI.CurrentVersion(), want) {
			return fmt.Errorf("%s needs API version %s, but the daemon's is %s", cmd.CommandPath(), want, dockerCLI.CurrentVersion())
		}
	}
	return flagsSupported(cmd, dockerCLI)
}

// daemonFor points the default context at our socket. WHARF_HOST stands in
// for DOCKER_HOST, so that plugins see it too.
func daemonFor(opts *flags.ClientOptions) {
	if len(opts.Hosts) > 0 || opts.Context != "" {
		return
	}
	if h := os.Getenv("WHARF_HOST"); h != "" {
		_ = os.Setenv("DOCKER_HOST", h)
	}
	if os.Getenv("DOCKER_HOST") != "" || os.Getenv("DOCKER_CONTEXT") != "" {
		return
	}
	if c := configuredContext(opts.ConfigDir); c != "" && c != command.DefaultContextName {
		return
	}
	opts.Hosts = []string{defaultHost}
}
