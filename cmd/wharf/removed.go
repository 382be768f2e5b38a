package main

import (
	"errors"
	"net/http"
	"regexp"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// removedPath are the requests that have a counterpart for removed containers.
var removedPath = regexp.MustCompile(`^(?:/v[0-9.]+)?/containers/(json|[^/]+/json|[^/]+/logs)$`)

// redirect sends what a command asks about containers to the endpoint for
// removed ones, which answers in the same form: so each option of `ps`, `logs`
// and `inspect` means the same with --removed.
func redirect(q *http.Request) error {
	if m := removedPath.FindStringSubmatch(q.URL.Path); m != nil && q.Method == http.MethodGet {
		q.URL.Path, q.URL.RawPath = "/wharf/v1/removed/"+m[1], ""
	}
	return nil
}

// addRemoved gives ps, logs and inspect the flag --removed.
func addRemoved(root *cobra.Command, dockerCLI *command.DockerCli) error {
	on := false
	hook := command.WithAPIClientOptions(client.WithHTTPRequestHook(func(q *http.Request) error {
		if on {
			return redirect(q)
		}
		return nil
	}))
	if err := hook(dockerCLI); err != nil {
		return err
	}
	for _, path := range [][]string{{"ps"}, {"container", "ls"}, {"logs"}, {"container", "logs"}, {"inspect"}, {"container", "inspect"}, {"run-command"}} {
		cmd, _, err := root.Find(path)
		if err != nil || cmd.Name() != path[len(path)-1] {
			return errors.New("no command " + path[len(path)-1])
		}
		withRemoved(cmd, &on)
	}
	return nil
}

// withRemoved adds the flag to one command.
func withRemoved(cmd *cobra.Command, on *bool) {
	var removed bool
	cmd.Flags().BoolVar(&removed, "removed", false, "Of removed containers, for as long as they can come back (wharf trash)")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !removed {
			return run(cmd, args)
		}
		if f := cmd.Flags().Lookup("follow"); f != nil && f.Changed {
			return errors.New("--follow: a removed container writes nothing any more; leave it or --removed out")
		}
		if f := cmd.Flags().Lookup("type"); f != nil { // `inspect` looks for images and others too
			if f.Changed && f.Value.String() != "container" {
				return errors.New("--removed: only containers are kept; leave --type out")
			}
			if err := f.Value.Set("container"); err != nil {
				return err
			}
		}
		*on = true
		defer func() { *on = false }()
		return run(cmd, args)
	}
}
