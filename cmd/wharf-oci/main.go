// Command wharf-oci is wharf's runtime as an OCI command line: create, start,
// state, kill, delete, run, exec and what runc has beside them. It is for
// podman, containerd and conformance suites; wharfd does not use it. State is
// kept in --root/<id>/: state.json, config.json (the spec as it was at create)
// and exec.fifo while the container waits for start.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"wharf/internal/runtime"
)

// version is what --version tells.
const version = "0.1.0"

// global are the flags before the command.
type global struct {
	root, log, logFormat string
	debug, systemd       bool
	cgroupManager        string
}

// exitError ends the program with a code and without a message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	runtime.Main()
	var g global
	cmd := rootCommand(&g)
	err := cmd.Execute()
	if err == nil {
		return
	}
	var code exitError
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	g.report(err)
	if c, _, e := cmd.Find(os.Args[1:]); e == nil && c.Name() == "exec" {
		os.Exit(255)
	}
	os.Exit(1)
}

func rootCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "wharf-oci", Short: "OCI runtime of wharf", Version: version,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.systemd || g.cgroupManager == "systemd" {
				return errors.New("cgroups by systemd are not there; leave out --systemd-cgroup and give a path as cgroupsPath")
			}
			return nil
		},
	}
	cmd.SetVersionTemplate("wharf-oci version {{.Version}}\nspec: 1.3.0\n")
	f := cmd.PersistentFlags()
	f.StringVar(&g.root, "root", defaultRoot, "directory for state")
	f.StringVar(&g.log, "log", "", "file for messages, beside standard error")
	f.StringVar(&g.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&g.debug, "debug", false, "tell each step and its time")
	f.BoolVar(&g.systemd, "systemd-cgroup", false, "not supported")
	f.StringVar(&g.cgroupManager, "cgroup-manager", "cgroupfs", "cgroupfs")
	f.String("rootless", "auto", "accepted for runc's sake; root is needed")
	cmd.AddCommand(createCommand(g), startCommand(g), runCommand(g), stateCommand(g), killCommand(g), deleteCommand(g),
		execCommand(g), psCommand(g), listCommand(g), pauseCommand(g), resumeCommand(g), updateCommand(g),
		eventsCommand(g), specCommand(), featuresCommand())
	return cmd
}

// defaultRoot need not be there: nothing ran yet.
const defaultRoot = "/run/wharf-oci"

// report tells an error where runc's users look for it.
func (g *global) report(err error) {
	toStderr("error", err.Error())
	g.toLog("error", err.Error())
}

func (g *global) warn(list []string) {
	for _, w := range list {
		toStderr("warning", w)
	}
}

// trace tells with --debug what was done, and how long each step took: in the
// log if there is one, else on standard error.
func (g *global) trace(steps runtime.Trace) {
	if !g.debug {
		return
	}
	for i, s := range steps {
		msg := s.Name
		if i > 0 {
			msg += " after " + time.Duration(s.At-steps[i-1].At).String()
		}
		if g.log != "" {
			g.toLog("debug", msg)
		} else {
			toStderr("debug", msg)
		}
	}
}

func toStderr(level, msg string) { _, _ = os.Stderr.WriteString(logLine(level, msg)) }

func logLine(level, msg string) string {
	return fmt.Sprintf("time=%q level=%s msg=%q\n", time.Now().Format(time.RFC3339), level, msg)
}

func (g *global) toLog(level, msg string) {
	if g.log == "" {
		return
	}
	f, err := os.OpenFile(g.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if g.logFormat == "json" {
		_ = json.NewEncoder(f).Encode(map[string]string{"level": level, "msg": msg, "time": time.Now().Format(time.RFC3339)})
		return
	}
	_, _ = f.WriteString(logLine(level, msg))
}
