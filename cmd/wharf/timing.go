package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter/tabwriter"
	"github.com/spf13/cobra"
)

// timing is the answer of /wharf/v1/containers/{}/timing; times in nanoseconds.
type timing struct {
	Create, Start []struct {
		Name string
		Took time.Duration
	}
	Waited, Started time.Duration
}

// addTiming gives inspect the flag --timing.
func addTiming(root *cobra.Command, dockerCLI command.Cli) error {
	for _, path := range [][]string{{"inspect"}, {"container", "inspect"}} {
		cmd, _, err := root.Find(path)
		if err != nil || cmd.Name() != path[len(path)-1] {
			return errors.New("no command " + path[len(path)-1])
		}
		var on bool
		cmd.Flags().BoolVar(&on, "timing", false, "How long the steps of a container's create and of its last start took, since the daemon's start")
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if !on {
				return run(cmd, args)
			}
			var errs []error
			for _, ref := range args {
				var t timing
				err := ownCall(cmd.Context(), dockerCLI, http.MethodGet, "/wharf/v1/containers/"+url.PathEscape(ref)+"/timing", url.Values{}, &t)
				if err == nil {
					f, _ := cmd.Flags().GetString("format")
					err = t.show(dockerCLI.Out(), ref, f)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}
	}
	return nil
}

func (t timing) show(w io.Writer, ref, format string) error {
	switch format {
	case "":
	case "json":
		return json.NewEncoder(w).Encode(t)
	default:
		return fmt.Errorf("--format %q: with --timing it is json, or nothing for a table", format)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range t.Create {
		_, _ = fmt.Fprintf(tw, "%s\tcreate\t%s\t%s\n", ref, s.Name, s.Took)
	}
	for _, s := range t.Start {
		_, _ = fmt.Fprintf(tw, "%s\tstart\t%s\t%s\n", ref, s.Name, s.Took)
	}
	if t.Started > 0 {
		_, _ = fmt.Fprintf(tw, "%s\tstart\twhole\t%s\n", ref, t.Started)
	}
	return tw.Flush()
}
