// Command wharfd is the daemon: it serves Docker's Engine API and wires the
// rooms together. It is the only place that names concrete rooms; everything
// that decides or acts is in them.
//
// Start: configuration, lock on the data root, listeners (clients may connect
// and wait), rooms, recovery of what an earlier daemon left, then the API.
// End (SIGTERM, SIGINT): no new requests, those that run get a deadline, the
// rooms close. Containers live on. SIGHUP reads the configuration again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"

	clog "github.com/containerd/log"
	"github.com/spf13/pflag"

	"wharf/internal/config"
	"wharf/internal/host"
)

// Set by the Makefile.
var (
	version = "dev"
	commit  = ""
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "doctor" {
		os.Exit(doctor(os.Args[2:]))
	}
	cfg, err := config.Parse(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "wharfd: %v\n", err)
		os.Exit(1)
	case cfg.Version:
		fmt.Printf("wharf daemon version %s, commit %s, %s %s/%s\n", release(), orNone(commit), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return
	case cfg.Validate:
		fmt.Println("configuration OK")
		return
	}
	level := new(slog.LevelVar)
	setLevel(level, cfg)
	slog.SetDefault(slog.New(logHandler(cfg, level)))
	d := &daemon{cfg: cfg, args: os.Args[1:], level: level}
	if err := d.run(context.Background()); err != nil {
		slog.Error("wharfd ends", "err", err)
		os.Exit(1)
	}
}

// release is the version in the form that clients parse.
func release() string {
	v := strings.TrimPrefix(version, "v")
	if v == "" || v[0] < '0' || v[0] > '9' || !strings.Contains(v, ".") {
		return "0.0.0-" + version // a commit: clients want three numbers
	}
	return v
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func setLevel(l *slog.LevelVar, c *config.Config) {
	// Names were checked by config; slog knows the same four.
	_ = l.UnmarshalText([]byte(c.LogLevel))
	// containerd's libraries have a logger of their own; what they take for
	// worth an "info" is detail here.
	lib := clog.WarnLevel
	if c.LogLevel == "debug" {
		lib = clog.DebugLevel
	}
	_ = clog.SetLevel(lib.String())
	if c.LogFormat == "json" {
		_ = clog.SetFormat(clog.JSONFormat)
	}
}

func logHandler(c *config.Config, level *slog.LevelVar) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.NewJSONHandler(os.Stderr, opts)
	}
	return slog.NewTextHandler(os.Stderr, opts)
}

// doctor examines this machine without a daemon: `wharfd doctor [--json]`.
func doctor(args []string) int {
	fs := pflag.NewFlagSet("wharfd doctor", pflag.ContinueOnError)
	asJSON := fs.Bool("json", false, "print JSON")
	root := fs.String("data-root", config.Default().DataRoot, "directory whose file system is examined")
	if err := fs.Parse(args); err != nil {
		fmt.Fprintf(os.Stderr, "wharfd doctor: %v\n", err)
		return 2
	}
	report := host.Report(host.Detect(host.Options{DataRoot: *root}))
	if c, err := config.Parse([]string{"--data-root", *root}); err == nil { // what is wrong with daemon.json, the daemon says
		report = append(report, vmReport(context.Background(), c)...)
	}
	bad := 0
	for _, i := range report {
		if i.State == host.Missing && !i.Optional {
			bad = 1
		}
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(report)
		return bad
	}
	for _, i := range report {
		fmt.Printf("%-8s %-30s %s\n", i.State, i.Name, i.Detail)
		if i.State != host.OK {
			for _, s := range []string{i.Cost, i.Remedy} {
				if s != "" {
					fmt.Printf("         %s\n", s)
				}
			}
		}
	}
	return bad
}
