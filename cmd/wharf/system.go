package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// addSystem puts our own verbs beside docker/cli's `system` ones.
func addSystem(root *cobra.Command, dockerCLI command.Cli) {
	for _, cmd := range root.Commands() {
		if cmd.Name() == "system" {
			cmd.AddCommand(fsckCommand(dockerCLI))
		}
	}
}

// fsckReport is the answer of /wharf/v1/fsck.
type fsckReport struct {
	Findings []struct {
		Room     string `json:"room"`
		Thing    string `json:"thing"`
		Name     string `json:"name"`
		ID       string `json:"id,omitempty"`
		Detail   string `json:"detail"`
		Remedy   string `json:"remedy,omitempty"`
		Repaired bool   `json:"repaired,omitempty"`
		Error    string `json:"error,omitempty"`
	} `json:"findings"`
	Containers int            `json:"containers"`
	Checked    map[string]int `json:"checked"`
	Unsettled  int            `json:"unsettled,omitempty"`
}

func fsckCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	var repair bool
	cmd := &cobra.Command{
		Use:   "fsck [OPTIONS]",
		Short: "Find records without things and things without records",
		Long: `Compare the daemon's records with what there is on the machine: processes, control
groups, links, firewall rules, addresses, mounts, layers, blobs, volumes, directories.

It may run while containers are made and removed. The exit code is 0 when all is
well or was repaired, 1 when something is wrong.`,
		Args:                  cli.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--format %q: want table or json", format)
			}
			method, path := http.MethodGet, "/wharf/v1/fsck"
			if repair {
				method, path = http.MethodPost, path+"?repair=1"
			}
			var r fsckReport
			if err := ownRequest(cmd.Context(), dockerCLI, method, path, &r); err != nil {
				return err
			}
			return showFsck(dockerCLI.Out(), r, format)
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "Repair what can be repaired")
	cmd.Flags().StringVar(&format, "format", "table", `Format output: "table" or "json"`)
	_ = cmd.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func showFsck(w io.Writer, r fsckReport, format string) error {
	left := 0
	for _, f := range r.Findings {
		if !f.Repaired {
			left++
		}
	}
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else if err := tableFsck(w, r, left); err != nil {
		return err
	}
	if left > 0 {
		return cli.StatusError{StatusCode: 1}
	}
	return nil
}

func tableFsck(w io.Writer, r fsckReport, left int) error {
	if len(r.Findings) > 0 {
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(tw, "ROOM\tTHING\tNAME\tWHAT\tREMEDY")
		for _, f := range r.Findings {
			remedy := f.Remedy
			switch {
			case f.Repaired:
				remedy = "done: " + remedy
			case f.Error != "":
				remedy += " failed: " + f.Error
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", f.Room, f.Thing, f.Name, f.Detail, remedy)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if r.Unsettled > 0 {
		fmt.Fprintf(w, "%d things changed each time they were looked at; run it again when the daemon has less to do.\n", r.Unsettled)
	}
	switch {
	case left > 0:
		fmt.Fprintf(w, "%d containers examined; %d of %d findings are not repaired (wharf system fsck --repair).\n", r.Containers, left, len(r.Findings))
	case len(r.Findings) > 0:
		fmt.Fprintf(w, "%d containers examined; all %d findings were repaired.\n", r.Containers, len(r.Findings))
	default:
		fmt.Fprintf(w, "%d containers examined; all is well.\n", r.Containers)
	}
	return nil
}

// ownRequest asks one of the daemon's own endpoints and decodes its answer.
func ownRequest(ctx context.Context, dockerCLI command.Cli, method, path string, into any) error {
	dial := dockerCLI.Client().Dialer()
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://wharf"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		var e struct{ Message string }
		if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return fmt.Errorf("the daemon at %s: %s", dockerCLI.Client().DaemonHost(), e.Message)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
