// Command wharf-registry serves an image registry from a directory. `wharf
// registry` runs it; it also runs alone, in a container from an empty image or
// under a service manager.
//
//	wharf-registry serve --storage DIR [--addr 127.0.0.1:5000] ...
//	wharf-registry gc --storage DIR [--untagged] [--dry-run] [--grace 1h]
//
// It is a program of its own because the registry's libraries are large and it
// faces a network: neither belongs into the engine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"wharf/internal/registry"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() {
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintln(os.Stderr, "wharf-registry:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("say serve or gc (with --help for their options)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:])
	case "gc":
		return gc(ctx, args[1:])
	case "--version", "version":
		fmt.Println("wharf-registry", version, commit)
		return nil
	}
	return fmt.Errorf("unknown command %q: say serve or gc", args[0])
}

func serve(ctx context.Context, args []string) error {
	var o registry.Options
	f := flag.NewFlagSet("wharf-registry serve", flag.ContinueOnError)
	f.StringVar(&o.Root, "storage", "", "directory of the registry's content")
	f.StringVar(&o.Addr, "addr", "127.0.0.1:5000", "where to listen; port 0 picks one")
	f.StringVar(&o.Htpasswd, "htpasswd", "", "file with the users (bcrypt, as `htpasswd -B` makes)")
	f.StringVar(&o.TLSCert, "tls-cert", "", "TLS certificate (PEM)")
	f.StringVar(&o.TLSKey, "tls-key", "", "its key (PEM)")
	f.StringVar(&o.ClientCA, "client-ca", "", "only clients with a certificate of this authority (PEM)")
	f.BoolVar(&o.ReadOnly, "read-only", false, "pulls only")
	f.BoolVar(&o.Open, "open", false, "listen beyond loopback also without TLS or users")
	ready := f.String("address-file", "", "write the address there once it is open")
	if err := parse(f, args, &o.Root); err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := registry.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // the process ends
	ln, err := s.Listen()
	if err != nil {
		return err
	}
	if *ready != "" {
		if err := os.WriteFile(*ready, []byte(ln.Addr().String()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return s.Serve(ctx, ln)
}

func gc(ctx context.Context, args []string) error {
	var o registry.GCOptions
	f := flag.NewFlagSet("wharf-registry gc", flag.ContinueOnError)
	root := f.String("storage", "", "directory of the registry's content")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would go, remove nothing")
	f.BoolVar(&o.Untagged, "untagged", false, "also manifests without a tag")
	f.DurationVar(&o.Grace, "grace", time.Hour, "keep what is younger: it may belong to a push that still runs")
	if err := parse(f, args, root); err != nil {
		return err
	}
	rep, err := registry.Collect(ctx, *root, o)
	if err != nil {
		return err
	}
	verb := "Removed"
	if o.DryRun {
		verb = "Would remove"
	}
	tags := ""
	if rep.Tags > 0 {
		tags = fmt.Sprintf(", %d tags of signatures", rep.Tags)
	}
	fmt.Printf("%s %d manifests, %d links, %d blobs (%s)%s; %d stay\n", verb, rep.Manifests, rep.Links, rep.Blobs, units.HumanSize(float64(rep.Bytes)), tags, rep.Kept)
	return nil
}

// parse reads the flags and makes the storage directory's path absolute.
func parse(f *flag.FlagSet, args []string, root *string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *root == "" {
		return errors.New("--storage DIR says where the registry's content lies")
	}
	var err error
	*root, err = filepath.Abs(*root)
	return err
}
