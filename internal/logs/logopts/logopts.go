// Package logopts knows the log drivers and their options: which there are,
// what they mean, what they are when nobody says. It is pure and imports
// nothing of ours, so that plan can refuse a bad option at create and the
// monitor reads the same option the same way.
package logopts

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The drivers.
const (
	JSONFile = "json-file"
	Local    = "local"
	None     = "none"
	Syslog   = "syslog"
	Journald = "journald"
	Fluentd  = "fluentd"
	GELF     = "gelf"
)

// Drivers lists the drivers' names, sorted.
var Drivers = []string{Fluentd, GELF, JSONFile, Journald, Local, None, Syslog}

// Defaults of the file drivers: 3 x 20 MB, so that a disk never fills by
// output alone. Docker's json-file has no bound.
const (
	DefaultMaxSize = 20 << 20
	DefaultMaxFile = 3
	// DefaultBuffer is max-buffer-size of mode=non-blocking, as Docker's.
	DefaultBuffer = 1 << 20
)

// Every driver but none takes these. labels and env are acted on by plan,
// which puts what they choose into LogPlan.Attrs.
var common = []string{"mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"}

// The drivers that send elsewhere keep a copy, which docker logs reads.
var cache = []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

var special = map[string][]string{
	JSONFile: {"max-size", "max-file", "compress"},
	Local:    {"max-size", "max-file", "compress"},
	Syslog: append([]string{"syslog-address", "syslog-facility", "syslog-format",
		"syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"}, cache...),
	Journald: cache,
	Fluentd: append([]string{"fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit", "fluentd-max-retries",
		"fluentd-read-timeout", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision", "fluentd-write-timeout"}, cache...),
	GELF: append([]string{"gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"}, cache...),
	None: nil,
}

// Check says whether driver exists and takes every option with its value.
// errdefs.ErrInvalidArgument, naming option, value and remedy.
func Check(driver string, opts map[string]string) error {
	own, ok := special[driver]
	if !ok {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown log driver %q: use one of %s", driver, strings.Join(Drivers, ", ")))
	}
	allowed := append(slices.Clone(own), common...)
	if driver == None {
		allowed = nil
	}
	for name := range opts {
		if !slices.Contains(allowed, name) {
			if len(allowed) == 0 {
				return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown log opt %q: the log driver %s takes no options", name, driver))
			}
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown log opt %q for %s log driver: it takes %s", name, driver, strings.Join(allowed, ", ")))
		}
	}
	if _, err := ParseMode(opts); err != nil {
		return err
	}
	var err error
	switch driver {
	case JSONFile, Local:
		_, err = ParseFile(opts)
	case Syslog:
		_, err = ParseSyslog(opts)
	case Fluentd:
		_, err = ParseFluentd(opts)
	case GELF:
		_, err = ParseGELF(opts)
	}
	if err == nil && Cached(driver) {
		_, err = ParseCache(opts)
	}
	return err
}

// Mode says what happens when output comes faster than it can be written.
type Mode struct {
	NonBlocking bool
	Buffer      int // bytes that wait in memory; more is lost
}

// ParseMode reads mode and max-buffer-size.
func ParseMode(opts map[string]string) (Mode, error) {
	m := Mode{Buffer: DefaultBuffer}
	switch v := opts["mode"]; v {
	case "", "blocking":
	case "non-blocking":
		m.NonBlocking = true
	default:
		return m, invalid("mode", v, `use "blocking" or "non-blocking"`)
	}
	if v, ok := opts["max-buffer-size"]; ok {
		if !m.NonBlocking {
			return m, invalid("max-buffer-size", v, "it is only used with mode=non-blocking")
		}
		n, err := ParseSize(v)
		if err != nil || n <= 0 || n > math.MaxInt32 {
			return m, invalid("max-buffer-size", v, "give a size such as 4m")
		}
		m.Buffer = int(n)
	}
	return m, nil
}

// File is how log files are rotated.
type File struct {
	MaxSize  int64 // bytes of one file; 0: no bound
	MaxFile  int   // how many files there are, the current one included
	Compress bool  // rotated ones with gzip
}

// ParseFile reads the options of the file drivers.
func ParseFile(opts map[string]string) (File, error) {
	f := File{MaxSize: DefaultMaxSize, MaxFile: DefaultMaxFile}
	if v, ok := opts["max-size"]; ok {
		n, err := ParseSize(v)
		if v == "-1" || v == "0" {
			n, err = 0, nil
		} else if err != nil || n <= 0 {
			return f, invalid("max-size", v, "give a size such as 10m, or -1 for no bound")
		}
		f.MaxSize = n
	}
	if v, ok := opts["max-file"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			return f, invalid("max-file", v, "give a number from 1 to 1000")
		}
		f.MaxFile = n
	}
	if v, ok := opts["compress"]; ok {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return f, invalid("compress", v, `use "true" or "false"`)
		}
		if b && f.MaxFile < 2 {
			return f, invalid("compress", v, "only rotated files are compressed: set max-file to 2 or more")
		}
		f.Compress = b
	}
	return f, nil
}

// ParseSize reads "512", "10k", "20m", "1g", also with a fraction, a "b" or
// "ib" behind and a space between. Units are powers of 1024, as Docker's.
func ParseSize(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	t = strings.TrimSuffix(t, "b")
	if n := len(t); n > 1 && t[n-1] == 'i' && strings.IndexByte("kmgtp", t[n-2]) >= 0 {
		t = t[:n-1]
	}
	shift := 0
	if n := len(t); n > 0 {
		if i := strings.IndexByte("kmgtp", t[n-1]); i >= 0 {
			shift, t = 10*(i+1), t[:n-1]
		}
	}
	t = strings.TrimSuffix(t, " ")
	if t == "" || strings.Trim(t, "0123456789.") != "" {
		return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a size", s))
	}
	f, err := strconv.ParseFloat(t, 64)
	if err == nil {
		f *= float64(int64(1) << shift)
	}
	if err != nil || f >= math.MaxInt64 {
		return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a size", s))
	}
	return int64(f), nil
}

func invalid(name, value, remedy string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("log-opt %s=%s: %s", name, value, remedy))
}
