package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// parseFlags reads the command line into c. pflag.ErrHelp: help was printed.
func parseFlags(c *Config, args []string) (*pflag.FlagSet, error) {
	fs := pflag.NewFlagSet("wharfd", pflag.ContinueOnError)
	fs.SortFlags = true
	fs.Usage = func() {
		fmt.Printf("Usage: wharfd [OPTIONS]\n\nThe wharf daemon: Docker's Engine API over containers (and, later, virtual machines).\nOptions may also stand in %s, under the names that dockerd's daemon.json has.\n\n%s",
			DefaultFile, fs.FlagUsages())
	}
	fs.StringVar(&c.File, "config-file", DefaultFile, "configuration file")
	fs.BoolVar(&c.Validate, "validate", false, "check the configuration and leave")
	fs.BoolVarP(&c.Version, "version", "v", false, "print the version and leave")
	for _, f := range fields(c) {
		if f.flag != "-" {
			addFlag(fs, f)
		}
	}
	for name := range absent {
		if fs.Lookup(name) == nil {
			fs.Var(refused(name), name, "")
			fs.Lookup(name).NoOptDefVal = "true" // some are switches
			_ = fs.MarkHidden(name)
		}
	}
	if err := fs.Parse(args); err != nil {
		return fs, err
	}
	if fs.NArg() > 0 {
		return fs, fmt.Errorf("wharfd takes options only, not %q", fs.Arg(0))
	}
	return fs, nil
}

func addFlag(fs *pflag.FlagSet, f field) {
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		fs.StringVarP(p, f.flag, f.short, *p, f.help)
	case *bool:
		fs.BoolVarP(p, f.flag, f.short, *p, f.help)
	case *int:
		fs.IntVarP(p, f.flag, f.short, *p, f.help)
	case *uint32:
		fs.Uint32VarP(p, f.flag, f.short, *p, f.help)
	case *[]string:
		fs.StringArrayVarP(p, f.flag, f.short, *p, f.help)
	case *Size:
		fs.VarP(p, f.flag, f.short, f.help)
	default:
		v := parsed{f: f, kind: "value"}
		switch p := p.(type) {
		case *netip.Prefix:
			v.set, v.kind = into(p, netip.ParsePrefix), "CIDR"
		case *netip.Addr:
			v.set, v.kind = into(p, netip.ParseAddr), "address"
		case *[]netip.Addr:
			v.set, v.kind = appendTo(p, netip.ParseAddr), "address"
		case *[]Pool:
			v.set, v.kind = appendTo(p, parsePool), "base=CIDR,size=BITS"
		case *map[string]string:
			v.set, v.kind = pair(p, func(s string) (string, error) { return s, nil }), "key=value"
		case *map[string]bool:
			v.set, v.kind = pair(p, strconv.ParseBool), "key=bool"
		case *Ulimits:
			v.set, v.kind = func(s string) error {
				u, err := units.ParseUlimit(s)
				if err != nil {
					return err
				}
				if *p == nil {
					*p = Ulimits{}
				}
				(*p)[u.Name] = u
				return nil
			}, "name=soft:hard"
		default:
			panic("config: no flag for " + f.key) // a programming error, found by every test
		}
		fs.VarP(&v, f.flag, f.short, f.help)
	}
}

// parsed is a flag whose values are read by set.
type parsed struct {
	f    field
	kind string
	set  func(string) error
	said []string
}

func (p *parsed) Set(s string) error {
	p.said = append(p.said, s)
	return p.set(s)
}
func (p *parsed) String() string { return strings.Join(p.said, ",") }
func (p *parsed) Type() string   { return p.kind }

func into[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*to, err = parse(s)
		return err
	}
}

func appendTo[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := parse(s)
		if err == nil {
			*to = append(*to, v)
		}
		return err
	}
}

func pair[T any](to *map[string]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		k, text, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is not of the form key=value", s)
		}
		v, err := parse(text)
		if err != nil {
			return err
		}
		if *to == nil {
			*to = make(map[string]T)
		}
		(*to)[k] = v
		return nil
	}
}

func parsePool(s string) (Pool, error) {
	var p Pool
	for part := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(part, "=")
		var err error
		switch k {
		case "base":
			p.Base, err = netip.ParsePrefix(v)
		case "size":
			p.Size, err = strconv.Atoi(v)
		default:
			err = fmt.Errorf("unknown word %q, want base=CIDR,size=BITS", k)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// refused is a flag of dockerd's that we have not.
type refused string

func (r refused) Set(string) error {
	return fmt.Errorf("is not supported by wharf: %s", absent[string(r)])
}
func (r refused) String() string { return "" }
func (r refused) Type() string   { return "string" }

// besides finds a program: beside our own, or where an installation puts it.
func besides(name, installed string) string {
	if self, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return installed
}
