package logopts

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		driver string
		opts   map[string]string
		bad    string // part of the error
	}{
		{"json-file", nil, ""},
		{"json-file", map[string]string{"max-size": "10m", "max-file": "3", "compress": "true", "labels": "a", "env": "b", "tag": "x"}, ""},
		{"json-file", map[string]string{"max-size": "-1"}, ""},
		{"json-file", map[string]string{"mode": "non-blocking", "max-buffer-size": "4m"}, ""},
		{"local", map[string]string{"max-size": "1g", "max-file": "1"}, ""},
		{"none", nil, ""},
		{"journald", map[string]string{"tag": "x"}, ""},
		{"syslog", map[string]string{"syslog-address": "udp://[::1]:514", "syslog-facility": "local3", "syslog-format": "rfc5424micro"}, ""},
		{"syslog", map[string]string{"syslog-address": "tcp://collector", "syslog-facility": "16"}, ""},
		{"syslog", map[string]string{"syslog-address": "unixgram:///dev/log"}, ""},

		{"syslog", map[string]string{"syslog-address": "tcp+tls://h:1", "syslog-tls-ca-cert": "/ca", "cache-disabled": "true"}, ""},
		{"gelf", map[string]string{"gelf-address": "udp://h:1", "gelf-compression-type": "zlib", "gelf-compression-level": "-1", "cache-max-file": "2", "mode": "non-blocking"}, ""},
		{"gelf", map[string]string{"gelf-address": "tcp://[::1]:1", "gelf-tcp-max-reconnect": "3", "gelf-tcp-reconnect-delay": "2", "labels": "a", "tag": "t"}, ""},
		{"fluentd", nil, ""},
		{"fluentd", map[string]string{"fluentd-address": "tls://h", "fluentd-async": "true", "fluentd-request-ack": "1", "fluentd-retry-wait": "2s", "fluentd-max-retries": "3",
			"fluentd-sub-second-precision": "true", "fluentd-buffer-limit": "8m", "fluentd-write-timeout": "1s", "fluentd-read-timeout": "1s"}, ""},

		{"splunk", nil, "json-file, journald"},
		{"none", map[string]string{"max-size": "1m"}, "takes no options"},
		{"json-file", map[string]string{"max-sizes": "1m"}, "max-sizes"},
		{"journald", map[string]string{"max-size": "1m"}, "max-size"},
		{"json-file", map[string]string{"max-size": "big"}, "max-size=big"},
		{"json-file", map[string]string{"max-size": "-5"}, "-1 for no bound"},
		{"json-file", map[string]string{"max-file": "0"}, "max-file=0"},
		{"json-file", map[string]string{"compress": "maybe"}, "compress=maybe"},
		{"json-file", map[string]string{"compress": "true", "max-file": "1"}, "2 or more"},
		{"json-file", map[string]string{"mode": "fast"}, "mode=fast"},
		{"json-file", map[string]string{"max-buffer-size": "1m"}, "non-blocking"},
		{"syslog", map[string]string{"syslog-tls-cert": "x"}, "syslog-tls-key"},
		{"syslog", map[string]string{"syslog-tls-ca-cert": "x", "syslog-address": "tcp://h:1"}, "tcp+tls://"},
		{"syslog", map[string]string{"cache-max-size": "x"}, "cache-max-size=x"},
		{"json-file", map[string]string{"cache-disabled": "true"}, "cache-disabled"},
		{"gelf", nil, "gelf-address"},
		{"gelf", map[string]string{"gelf-address": "udp://h"}, "udp://host:port"},
		{"gelf", map[string]string{"gelf-address": "tcp://h:1", "gelf-compression-type": "gzip"}, "UDP"},
		{"gelf", map[string]string{"gelf-address": "udp://h:1", "gelf-compression-type": "lz4"}, "zlib"},
		{"gelf", map[string]string{"gelf-address": "udp://h:1", "gelf-compression-level": "10"}, "-1 to 9"},
		{"gelf", map[string]string{"gelf-address": "udp://h:1", "gelf-tcp-max-reconnect": "1"}, "TCP"},
		{"gelf", map[string]string{"gelf-address": "tcp://h:1", "gelf-tcp-reconnect-delay": "1s"}, "seconds"},
		{"fluentd", map[string]string{"fluentd-address": "udp://h:1"}, "tls://host:port"},
		{"fluentd", map[string]string{"fluentd-address": "h:1/path"}, "fluentd-address"},
		{"fluentd", map[string]string{"fluentd-async": "perhaps"}, "fluentd-async"},
		{"fluentd", map[string]string{"fluentd-retry-wait": "1"}, "500ms"},
		{"fluentd", map[string]string{"fluentd-max-retries": "-1"}, "0 or more"},
		{"fluentd", map[string]string{"fluentd-async-reconnect-interval": "1m"}, "100ms to 10s"},
		{"syslog", map[string]string{"syslog-address": "udp://h:0"}, "udp://h:0"},
		{"syslog", map[string]string{"syslog-address": "udp://a:b:c"}, "syslog-address"},
		{"syslog", map[string]string{"syslog-address": "unix://relative"}, "unix:///path"},
		{"syslog", map[string]string{"syslog-address": "h:514"}, "udp://host:port"},
		{"syslog", map[string]string{"syslog-facility": "local9"}, "local9"},
		{"syslog", map[string]string{"syslog-format": "json"}, "rfc5424"},
	} {
		err := Check(c.driver, c.opts)
		switch {
		case c.bad == "" && err != nil:
			t.Errorf("%s %v: %v", c.driver, c.opts, err)
		case c.bad != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.bad)):
			t.Errorf("%s %v: error %v, which should mention %q", c.driver, c.opts, err, c.bad)
		}
	}
}

func TestValues(t *testing.T) {
	f, err := ParseFile(map[string]string{"max-size": "1.5k"})
	if diff := cmp.Diff(File{MaxSize: 1536, MaxFile: 3}, f); err != nil || diff != "" {
		t.Error(err, diff)
	}
	f, _ = ParseFile(nil)
	if f.MaxSize != 20<<20 || f.MaxFile != 3 {
		t.Errorf("defaults %+v", f)
	}
	s, err := ParseSyslog(map[string]string{"syslog-address": "tcp://[fe80::1]", "syslog-facility": "cron"})
	if want := (SyslogOptions{Address: Address{"tcp", "[fe80::1]:514"}, Facility: 9}); err != nil || s != want {
		t.Errorf("%+v %v", s, err)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "512": 512, "10k": 10240, "10K": 10240, "10kb": 10240, "10KiB": 10240, "20m": 20 << 20,
		"1.5g": 3 << 29, " 7 m": 7 << 20, "1t": 1 << 40, "5b": 5} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: %d %v", in, got, err)
		}
	}
	for _, in := range []string{"", "m", "-1", "1x", "1..2", "0x10", "1e3", "99999999999999999999p", "inf", "nan"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("json-file", "max-size", "10m")
	f.Add("syslog", "syslog-address", "udp://[::1]:514")
	f.Fuzz(func(t *testing.T, driver, name, value string) {
		err := Check(driver, map[string]string{name: value})
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v", err)
		}
	})
}
