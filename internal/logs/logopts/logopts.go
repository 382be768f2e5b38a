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
)

// Drivers lists the drivers' names, sorted.
var Drivers = []string{JSONFile, Journald, Local, None, Syslog}

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

var special = map[string][]string{
	JSONFile: {"max-size", "max-file", "compress"},
	Local:    {"max-size", "max-file", "compress"},
	Syslog:   {"syslog-address", "syslog-facility", "syslog-format"},
	Journald: nil,
	None:     nil,
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
		if strings.HasPrefix(name, "syslog-tls") && driver == Syslog {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("log-opt %s: syslog over TLS is not there yet; use tcp, udp or a local socket", name))
		}
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
	switch driver {
	case JSONFile, Local:
		_, err := ParseFile(opts)
		return err
	case Syslog:
		_, err := ParseSyslog(opts)
		return err
	}
	return nil
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

// Address is where syslog messages go.
type Address struct {
	Network string // "": the local daemon's socket, wherever it is; unix, unixgram, udp, tcp
	Addr    string // path, or host:port
}

// SyslogOptions are the syslog driver's.
type SyslogOptions struct {
	Address  Address
	Facility int // RFC 5424 number
	Format   string
}

var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// ParseSyslog reads the options of the syslog driver.
func ParseSyslog(opts map[string]string) (SyslogOptions, error) {
	o := SyslogOptions{Facility: 3}
	if v := opts["syslog-facility"]; v != "" {
		o.Facility = slices.Index(facilities, v)
		if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= 23 {
			o.Facility = n
		}
		if o.Facility < 0 {
			return o, invalid("syslog-facility", v, "use a name such as daemon or local0, or a number from 0 to 23")
		}
	}
	switch v := opts["syslog-format"]; v {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
		o.Format = v
	default:
		return o, invalid("syslog-format", v, "use rfc3164, rfc5424 or rfc5424micro")
	}
	a, err := parseAddress(opts["syslog-address"])
	o.Address = a
	return o, err
}

// parseAddress is written out because package net/url costs the monitor start
// time and size.
func parseAddress(v string) (Address, error) {
	if v == "" {
		return Address{}, nil
	}
	const remedy = "use unix:///path, unixgram:///path, udp://host:port or tcp://host:port"
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		return Address{}, invalid("syslog-address", v, remedy)
	}
	switch scheme {
	case "unix", "unixgram":
		if !strings.HasPrefix(rest, "/") {
			return Address{}, invalid("syslog-address", v, remedy)
		}
		if len(rest) > 107 {
			return Address{}, invalid("syslog-address", v, "a socket's path has at most 107 bytes")
		}
		return Address{scheme, rest}, nil
	case "udp", "tcp":
		host, port := rest, "514"
		if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
			host, port = rest[:i], rest[i+1:]
		}
		v6 := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
		n, err := strconv.Atoi(port)
		if host == "" || err != nil || n < 1 || n > 65535 || strings.ContainsAny(host, "/@?# ") || !v6 && strings.ContainsAny(host, ":[]") {
			return Address{}, invalid("syslog-address", v, remedy)
		}
		return Address{scheme, host + ":" + port}, nil
	case "tcp+tls":
		return Address{}, invalid("syslog-address", v, "TLS is not there yet; "+remedy)
	}
	return Address{}, invalid("syslog-address", v, remedy)
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
