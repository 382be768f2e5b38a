package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// defaultHost is where wharfd listens.
const defaultHost = "unix:///run/wharf.sock"

// configuredContext is the current context of Docker's configuration, "" when
// there is none or it cannot be read (docker/cli says so itself later).
func configuredContext(dir string) string {
	if dir != "" {
		config.SetDir(dir)
	}
	cfg, err := config.Load(config.Dir())
	if err != nil {
		return ""
	}
	return cfg.CurrentContext
}

// flagsSupported refuses flags that the daemon does not know yet.
func flagsSupported(cmd *cobra.Command, dockerCLI command.Cli) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		want := f.Annotations["version"]
		if !f.Changed || len(want) != 1 {
			return
		}
		if have := dockerCLI.CurrentVersion(); older(have, want[0]) {
			errs = append(errs, fmt.Errorf(`"--%s" needs API version %s, but the daemon's is %s`, f.Name, want[0], have))
		}
	})
	return errors.Join(errs...)
}

// older reports whether API version a is older than b.
func older(a, b string) bool {
	amaj, amin := split(a)
	bmaj, bmin := split(b)
	return amaj < bmaj || amaj == bmaj && amin < bmin
}

func split(v string) (major, minor int) {
	a, b, _ := strings.Cut(v, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}
