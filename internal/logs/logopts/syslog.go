package logopts

import (
	"slices"
	"strconv"
	"strings"
)

// Address is where messages go.
type Address struct {
	Network string // "": the local syslog daemon's socket, wherever it is; unix, unixgram, udp, tcp, tls
	Addr    string // path, or host:port
}

// SyslogOptions are the syslog driver's.
type SyslogOptions struct {
	Address  Address
	Facility int // RFC 5424 number
	Format   string
	TLS      TLS // of network tls
}

// TLS names files, all of them PEM, that are read when the container starts.
type TLS struct {
	CA, Cert, Key string
	SkipVerify    bool
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
	if err != nil {
		return o, err
	}
	o.Address = a
	o.TLS = TLS{CA: opts["syslog-tls-ca-cert"], Cert: opts["syslog-tls-cert"], Key: opts["syslog-tls-key"]}
	if v, ok := opts["syslog-tls-skip-verify"]; ok { // anything means yes, in Docker too
		o.TLS.SkipVerify = v != "false" && v != "0"
	}
	if (o.TLS.Cert == "") != (o.TLS.Key == "") {
		return o, invalid("syslog-tls-cert", o.TLS.Cert, "a certificate and its key (syslog-tls-key) go together")
	}
	if o.TLS != (TLS{}) && a.Network != "tls" {
		return o, invalid("syslog-address", opts["syslog-address"], "the syslog-tls options need an address tcp+tls://host:port")
	}
	return o, nil
}

// parseAddress is written out because package net/url costs the monitor start
// time and size.
func parseAddress(v string) (Address, error) {
	if v == "" {
		return Address{}, nil
	}
	const remedy = "use unix:///path, unixgram:///path, udp://host:port, tcp://host:port or tcp+tls://host:port"
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		return Address{}, invalid("syslog-address", v, remedy)
	}
	switch scheme {
	case "unix", "unixgram":
		return socketAddress("syslog-address", v, scheme, rest, remedy)
	case "udp", "tcp":
		return hostAddress("syslog-address", v, scheme, rest, "514", remedy)
	case "tcp+tls":
		return hostAddress("syslog-address", v, "tls", rest, "514", remedy)
	}
	return Address{}, invalid("syslog-address", v, remedy)
}

func socketAddress(option, v, network, path, remedy string) (Address, error) {
	if !strings.HasPrefix(path, "/") {
		return Address{}, invalid(option, v, remedy)
	}
	if len(path) > 107 {
		return Address{}, invalid(option, v, "a socket's path has at most 107 bytes")
	}
	return Address{network, path}, nil
}

// hostAddress reads host:port; a missing port is port, unless that is "".
func hostAddress(option, v, network, rest, port, remedy string) (Address, error) {
	host := rest
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
		host, port = rest[:i], rest[i+1:]
	}
	v6 := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	n, err := strconv.Atoi(port)
	if host == "" || err != nil || n < 1 || n > 65535 || strings.ContainsAny(host, "/@?# ") || !v6 && strings.ContainsAny(host, ":[]") {
		return Address{}, invalid(option, v, remedy)
	}
	return Address{network, host + ":" + port}, nil
}
