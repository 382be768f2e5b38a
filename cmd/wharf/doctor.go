package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// item is one thing that the machine has or lacks: GET /wharf/v1/doctor
// answers with a list of them.
type item struct {
	Name     string `json:"name"`
	State    string `json:"state"` // ok, limited, missing
	Detail   string `json:"detail,omitempty"`
	Cost     string `json:"cost,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

func doctorCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS]",
		Short: "Show what this machine has and lacks for containers, and what that costs",
		Long: `Show what the daemon's machine has and lacks for containers, and what that costs.

The daemon is asked. When none answers, "wharfd doctor" examines this machine.
The exit code is 1 when something is missing that containers need.`,
		Args:                  cli.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--format %q: want table or json", format)
			}
			raw, err := examine(cmd.Context(), dockerCLI)
			if err != nil {
				return err
			}
			return show(dockerCLI.Out(), raw, format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", `Format output: "table" or "json"`)
	_ = cmd.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// examine asks the daemon, or wharfd's own doctor where none answers.
func examine(ctx context.Context, dockerCLI command.Cli) ([]byte, error) {
	raw, err := askDaemon(ctx, dockerCLI)
	var op *net.OpError
	if err == nil || !errors.As(err, &op) {
		return raw, err
	}
	wharfd, lerr := findWharfd()
	if lerr != nil {
		return nil, fmt.Errorf("no daemon answers at %s (%v) and wharfd is not installed here; start it (systemctl start wharf, or: wharfd &) or name another one with -H or WHARF_HOST",
			dockerCLI.Client().DaemonHost(), op)
	}
	fmt.Fprintf(dockerCLI.Err(), "No daemon answers at %s; %s examines this machine.\n", dockerCLI.Client().DaemonHost(), wharfd)
	out, err := exec.CommandContext(ctx, wharfd, "doctor", "--json").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(out) == 0 {
		return nil, fmt.Errorf("%s doctor: %s", wharfd, strings.TrimSpace(string(exit.Stderr)))
	}
	return out, nil
}

func askDaemon(ctx context.Context, dockerCLI command.Cli) ([]byte, error) {
	dial := dockerCLI.Client().Dialer()
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://wharf/wharf/v1/doctor", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Message string }
		if json.Unmarshal(raw, &e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return nil, fmt.Errorf("the daemon at %s has no doctor (%s); is it another engine?", dockerCLI.Client().DaemonHost(), e.Message)
	}
	return raw, nil
}

// findWharfd looks beside this program first, then in PATH.
func findWharfd() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "wharfd")
		if st, err := os.Stat(beside); err == nil && st.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	return exec.LookPath("wharfd")
}

func show(w io.Writer, raw []byte, format string) error {
	var items []item
	if err := json.Unmarshal(raw, &items); err != nil {
		return fmt.Errorf("the doctor's answer cannot be read: %w", err)
	}
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(items); err != nil {
			return err
		}
	} else if err := table(w, items); err != nil {
		return err
	}
	for _, it := range items {
		if it.State == "missing" && !it.Optional {
			return cli.StatusError{StatusCode: 1}
		}
	}
	return nil
}

func table(w io.Writer, items []item) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "FEATURE\tSTATE\tDETAIL")
	for _, it := range items {
		state := it.State
		if it.Optional && state != "ok" {
			state += " (optional)"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", it.Name, state, it.Detail)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, it := range items {
		if it.State == "ok" || it.Cost == "" && it.Remedy == "" {
			continue
		}
		fmt.Fprintf(w, "\n%s is %s.", it.Name, it.State)
		if it.Cost != "" {
			fmt.Fprintf(w, "\n  What it costs: %s", it.Cost)
		}
		if it.Remedy != "" {
			fmt.Fprintf(w, "\n  What to do:    %s", it.Remedy)
		}
		fmt.Fprintln(w)
	}
	return nil
}
