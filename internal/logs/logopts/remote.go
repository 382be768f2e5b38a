package logopts

import (
	"strconv"
	"strings"
	"time"
)

// Cached reports whether a driver sends output elsewhere and keeps a copy of
// it here, in the format of the driver local.
func Cached(driver string) bool {
	return driver == Syslog || driver == Journald || driver == Fluentd || driver == GELF
}

// Shipped reports whether a driver's output is sent by a process of its own,
// wharf-logger: where there is a connection to keep, or a big library needed.
// Datagrams and local sockets are sent by whoever writes the copy.
func Shipped(driver string, opts map[string]string) bool {
	if driver == Syslog {
		o, err := ParseSyslog(opts)
		return err == nil && (o.Address.Network == "tcp" || o.Address.Network == "tls")
	}
	return driver == Fluentd || driver == GELF
}

// Cache is the copy of what is sent elsewhere.
type Cache struct {
	Disabled bool
	File
}

// ParseCache reads the options of the copy, in Docker's names and defaults.
func ParseCache(opts map[string]string) (Cache, error) {
	c := Cache{File: File{MaxSize: 20 << 20, MaxFile: 5, Compress: true}}
	var err error
	if v, ok := opts["cache-disabled"]; ok {
		if c.Disabled, err = strconv.ParseBool(v); err != nil {
			return c, invalid("cache-disabled", v, `use "true" or "false"`)
		}
	}
	if v, ok := opts["cache-max-size"]; ok {
		if c.MaxSize, err = ParseSize(v); err != nil || c.MaxSize <= 0 {
			return c, invalid("cache-max-size", v, "give a size such as 10m")
		}
	}
	if v, ok := opts["cache-max-file"]; ok {
		if c.MaxFile, err = strconv.Atoi(v); err != nil || c.MaxFile < 1 || c.MaxFile > 1000 {
			return c, invalid("cache-max-file", v, "give a number from 1 to 1000")
		}
	}
	if v, ok := opts["cache-compress"]; ok {
		if c.Compress, err = strconv.ParseBool(v); err != nil {
			return c, invalid("cache-compress", v, `use "true" or "false"`)
		}
	}
	c.Compress = c.Compress && c.MaxFile > 1
	return c, nil
}

// Retry is how often an entry is sent that cannot be delivered.
type Retry struct {
	Max  int           // further attempts; negative: no bound
	Wait time.Duration // before the second; later waits are longer
}

// FluentdOptions are the fluentd driver's.
type FluentdOptions struct {
	Address   Address // network tcp, tls or unix
	Async     bool    // a collector that is not there does not keep a container from starting
	Ack       bool
	SubSecond bool
	Retry
	Write, Read time.Duration // bounds of one write and of waiting for an acknowledgement; 0: the shipper's own
	Reconnect   time.Duration // a connection is made anew after this time; 0: never
	BufferLimit bool          // was given; the copy is the buffer
}

// ParseFluentd reads the options of the fluentd driver.
func ParseFluentd(opts map[string]string) (FluentdOptions, error) {
	o := FluentdOptions{Retry: Retry{Max: -1, Wait: time.Second}}
	var err error
	if o.Address, err = fluentdAddress(opts["fluentd-address"]); err != nil {
		return o, err
	}
	for name, to := range map[string]*bool{"fluentd-async": &o.Async, "fluentd-request-ack": &o.Ack, "fluentd-sub-second-precision": &o.SubSecond} {
		if v, ok := opts[name]; ok {
			if *to, err = strconv.ParseBool(v); err != nil {
				return o, invalid(name, v, `use "true" or "false"`)
			}
		}
	}
	for name, to := range map[string]*time.Duration{"fluentd-retry-wait": &o.Wait, "fluentd-write-timeout": &o.Write, "fluentd-read-timeout": &o.Read, "fluentd-async-reconnect-interval": &o.Reconnect} {
		if v, ok := opts[name]; ok {
			if *to, err = time.ParseDuration(v); err != nil || *to < 0 {
				return o, invalid(name, v, "give a time such as 1s or 500ms")
			}
		}
	}
	if v := opts["fluentd-async-reconnect-interval"]; v != "" && (o.Reconnect < 100*time.Millisecond || o.Reconnect > 10*time.Second) {
		return o, invalid("fluentd-async-reconnect-interval", v, "give a time from 100ms to 10s")
	}
	if v, ok := opts["fluentd-max-retries"]; ok {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 0 {
			return o, invalid("fluentd-max-retries", v, "give a number, 0 or more")
		}
		o.Max = int(n)
	}
	if v, ok := opts["fluentd-buffer-limit"]; ok {
		if _, err := ParseSize(v); err != nil {
			return o, invalid("fluentd-buffer-limit", v, "give a size such as 8m")
		}
		o.BufferLimit = true
	}
	return o, nil
}

func fluentdAddress(v string) (Address, error) {
	const remedy = "use host:port, tcp://host:port, tls://host:port or unix:///path"
	if v == "" {
		return Address{"tcp", "127.0.0.1:24224"}, nil
	}
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		scheme, rest = "tcp", v
	}
	switch scheme {
	case "unix":
		return socketAddress("fluentd-address", v, scheme, rest, remedy)
	case "tcp", "tls":
		return hostAddress("fluentd-address", v, scheme, rest, "24224", remedy)
	}
	return Address{}, invalid("fluentd-address", v, remedy)
}

// GELFOptions are the gelf driver's.
type GELFOptions struct {
	Address     Address // network udp or tcp
	Compression string  // of udp: gzip, zlib, none
	Level       int     // of compress/flate
	Retry               // of tcp
}

// ParseGELF reads the options of the gelf driver.
func ParseGELF(opts map[string]string) (GELFOptions, error) {
	o := GELFOptions{Compression: "gzip", Level: 1, Retry: Retry{Max: -1, Wait: time.Second}}
	v := opts["gelf-address"]
	scheme, rest, _ := strings.Cut(v, "://")
	const remedy = "it is needed: udp://host:port or tcp://host:port"
	if scheme != "udp" && scheme != "tcp" {
		return o, invalid("gelf-address", v, remedy)
	}
	var err error
	if o.Address, err = hostAddress("gelf-address", v, scheme, rest, "", remedy); err != nil {
		return o, err
	}
	for _, name := range []string{"gelf-compression-type", "gelf-compression-level"} {
		if v, ok := opts[name]; ok && scheme != "udp" {
			return o, invalid(name, v, "compression is only supported on UDP")
		}
	}
	for _, name := range []string{"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"} {
		if v, ok := opts[name]; ok && scheme != "tcp" {
			return o, invalid(name, v, "it is only for TCP")
		}
	}
	if v, ok := opts["gelf-compression-type"]; ok {
		if o.Compression = v; v != "gzip" && v != "zlib" && v != "none" {
			return o, invalid("gelf-compression-type", v, "use gzip, zlib or none")
		}
	}
	if v, ok := opts["gelf-compression-level"]; ok {
		if o.Level, err = strconv.Atoi(v); err != nil || o.Level < -1 || o.Level > 9 {
			return o, invalid("gelf-compression-level", v, "give a number from -1 to 9")
		}
	}
	if v, ok := opts["gelf-tcp-max-reconnect"]; ok {
		if o.Max, err = strconv.Atoi(v); err != nil || o.Max < 0 {
			return o, invalid("gelf-tcp-max-reconnect", v, "give a number, 0 or more")
		}
	}
	if v, ok := opts["gelf-tcp-reconnect-delay"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > 3600 {
			return o, invalid("gelf-tcp-reconnect-delay", v, "give a number of seconds, 0 or more")
		}
		o.Wait = time.Duration(n) * time.Second
	}
	return o, nil
}
