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
	f.BoolVar(&g.debug, "debug", false, "say more")
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
	fmt.Fprintf(os.Stderr, "time=%q level=error msg=%q\n", time.Now().Format(time.RFC3339), err.Error())
	if g.log == "" {
		return
	}
	f, e := os.OpenFile(g.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if e != nil {
		return
	}
	defer f.Close()
	if g.logFormat == "json" {
		_ = json.NewEncoder(f).Encode(map[string]string{"level": "error", "msg": err.Error(), "time": time.Now().Format(time.RFC3339)})
		return
	}
	fmt.Fprintf(f, "time=%q level=error msg=%q\n", time.Now().Format(time.RFC3339), err.Error())
}

func (g *global) warn(list []string) {
	for _, w := range list {
		fmt.Fprintf(os.Stderr, "time=%q level=warning msg=%q\n", time.Now().Format(time.RFC3339), w)
	}
}
