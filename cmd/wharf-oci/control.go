package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func stateCommand(g *global) *cobra.Command {
	return &cobra.Command{Use: "state ID", Short: "print a container's state", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			return printJSON(c.state())
		}}
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func killCommand(g *global) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "kill ID [SIGNAL]", Short: "send a signal", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			sig := unix.SIGTERM
			if len(args) > 1 {
				if sig, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			return c.kill(sig, all)
		}}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "every process of the container")
	return cmd
}

func (c *container) kill(sig unix.Signal, all bool) error {
	stopped := c.status() == specs.StateStopped
	if all || (stopped || sig == unix.SIGKILL) && !c.ownPids() {
		pids, err := c.group().Pids()
		if err != nil {
			return err
		}
		for _, p := range pids {
			_ = unix.Kill(p, sig)
		}
		if len(pids) > 0 || all {
			return nil
		}
	}
	if stopped {
		return errors.New("container not running")
	}
	if err := c.signal(sig); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return errors.New("container not running")
		}
		return err
	}
	if sig == unix.SIGKILL && c.group().Frozen() {
		return c.group().Thaw()
	}
	return nil
}

// ownPids reports whether the container's processes end with its first.
func (c *container) ownPids() bool {
	if c.spec.Linux == nil {
		return false
	}
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace && n.Path == "" {
			return true
		}
	}
	return false
}

func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func deleteCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete ID", Short: "free what a stopped container holds", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				if force {
					if dir, e := g.dir(args[0]); e == nil {
						_ = os.RemoveAll(dir)
					}
					return nil
				}
				return err
			}
			switch s := c.status(); {
			case s == specs.StateStopped:
			case s == specs.StateCreated || force:
				if err := c.end(); err != nil {
					return err
				}
			default:
				return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.ID, s)
			}
			return c.destroy(g)
		}}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first, and be silent about one that is not there")
	return cmd
}

// end kills and waits, 10 seconds at most.
func (c *container) end() error {
	_ = c.kill(unix.SIGKILL, false)
	for i := 0; i < 2000; i++ {
		if !c.alive() {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("container init still running")
}

func pauseCommand(g *global) *cobra.Command {
	return &cobra.Command{Use: "pause ID", Short: "stop all processes", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			if s := c.status(); s != specs.StateRunning && s != specs.StateCreated {
				return fmt.Errorf("container not running: %s", s)
			}
			return c.group().Freeze()
		}}
}

func resumeCommand(g *global) *cobra.Command {
	return &cobra.Command{Use: "resume ID", Short: "let them go on", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			if !c.group().Frozen() {
				return errors.New("container not paused")
			}
			return c.group().Thaw()
		}}
}

func listCommand(g *global) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{Use: "list", Short: "list containers", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			states, err := g.states()
			if err != nil {
				return err
			}
			switch {
			case quiet:
				for _, s := range states {
					fmt.Println(s.ID)
				}
				return nil
			case format == "json":
				return json.NewEncoder(os.Stdout).Encode(states)
			case format != "table":
				return errors.New("invalid format option")
			}
			w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
			}
			return w.Flush()
		}}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the IDs")
	return cmd
}

func (g *global) states() ([]ociState, error) {
	entries, err := os.ReadDir(g.root)
	if err != nil && (!errors.Is(err, os.ErrNotExist) || g.root != defaultRoot) {
		return nil, err
	}
	out := []ociState{}
	for _, e := range entries {
		c, err := g.load(e.Name())
		if err != nil {
			fmt.Fprintf(os.Stderr, "load container %s: %v\n", e.Name(), err)
			continue
		}
		s := c.state()
		s.Owner = "root"
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

func psCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "ps ID [PS-OPTIONS]", Short: "list a container's processes", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			pids, err := c.group().Pids()
			if err != nil {
				return err
			}
			switch format {
			case "json":
				return json.NewEncoder(os.Stdout).Encode(pids)
			case "table":
				return printProcesses(pids, args[1:])
			}
			return errors.New("invalid format option")
		}}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

// printProcesses runs ps(1) and keeps the container's lines.
func printProcesses(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).Output()
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	lines := strings.Split(string(out), "\n")
	column := -1
	for i, f := range strings.Fields(lines[0]) {
		if f == "PID" {
			column = i
		}
	}
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Println(lines[0])
	want := map[string]bool{}
	for _, p := range pids {
		want[strconv.Itoa(p)] = true
	}
	for _, l := range lines[1:] {
		if f := strings.Fields(l); len(f) > column && want[f[column]] {
			fmt.Println(l)
		}
	}
	return nil
}
