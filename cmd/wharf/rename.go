package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// programName is "docker" where it stands for the program in docker/cli's texts:
// before one of its commands.
var programName = regexp.MustCompile(`\bdocker (attach|build|builder|commit|compose|container|context|cp|create|diff|events|exec|export|history|image|images|import|info|inspect|kill|load|login|logout|logs|manifest|network|node|pause|plugin|port|ps|pull|push|rename|restart|rm|rmi|run|save|search|service|stack|start|stats|stop|swarm|system|tag|top|unpause|update|version|volume|wait)\b`)

var phrases = strings.NewReplacer(
	"failed to connect to the docker API", "failed to connect to the wharf daemon",
	"on Docker objects", "on wharf objects",
	"docker disk usage", "disk usage",
	"Manage Docker", "Manage wharf",
	"the Docker version information", "version information",
	"Set the default docker context", "Set the default context",
	"Docker root directory", "data root",
	"the Docker host's", "the host's",
	"Docker API socket", "the engine's API socket",
)

// rename puts our name into the texts of a command and its children. Only
// help does this: it is not worth the time on the way to a container.
func rename(cmd *cobra.Command) {
	cmd.Use, cmd.Short, cmd.Long, cmd.Example = ours(cmd.Use), ours(cmd.Short), ours(cmd.Long), ours(cmd.Example)
	flag := func(f *pflag.Flag) {
		f.Usage = ours(f.Usage)
		f.Hidden = f.Hidden || useless(f)
	}
	cmd.Flags().VisitAll(flag)
	cmd.PersistentFlags().VisitAll(flag)
	if a := cmd.Annotations["aliases"]; a != "" {
		cmd.Annotations["aliases"] = ours(a)
	}
	for _, c := range cmd.Commands() {
		c.Short = ours(c.Short)
		c.Hidden = c.Hidden || c.Annotations["swarm"] != ""
	}
}

// useless: the flag is for Windows, a swarm, or what only an experimental
// dockerd has. It is not shown; the engine refuses it or warns.
func useless(f *pflag.Flag) bool {
	_, experimental := f.Annotations["experimental"]
	_, swarm := f.Annotations["swarm"]
	return experimental || swarm || slices.Equal(f.Annotations["ostype"], []string{"windows"})
}

// ours puts our name into a text of docker/cli's.
func ours(text string) string {
	if rest, ok := strings.CutPrefix(text, "docker: "); ok {
		text = "wharf: " + rest
	}
	if at, rest, ok := strings.Cut(text, "Cannot connect to the Docker daemon"); ok {
		text = at + "Cannot connect to the wharf daemon" + strings.Replace(rest, "Is the docker daemon running?",
			"Is wharfd running? (systemctl start wharf, or: wharfd &)", 1)
	}
	if !strings.Contains(text, "ocker") {
		return text
	}
	return programName.ReplaceAllString(phrases.Replace(text), "wharf $1")
}
