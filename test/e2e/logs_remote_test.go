package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLogCollectors sends to every kind of collector, and reads back what was
// sent.
func TestLogCollectors(t *testing.T) {
	secret, wrap := certificate(t)
	for _, c := range []struct {
		name, driver string
		make         func(t testing.TB) *collector
		options      func(addr string) []string
	}{
		{"fluentd", "fluentd", func(t testing.TB) *collector { return newCollector(t, "tcp", "127.0.0.1:0", forward) },
			func(a string) []string { return []string{"fluentd-address=" + a, "tag=app.{{.Name}}"} }},
		{"fluentd with acknowledgements", "fluentd", func(t testing.TB) *collector { return newCollector(t, "tcp", "127.0.0.1:0", forward) },
			func(a string) []string {
				return []string{"fluentd-address=tcp://" + a, "fluentd-request-ack=true", "fluentd-sub-second-precision=true", "mode=non-blocking"}
			}},
		{"fluentd by socket", "fluentd", func(t testing.TB) *collector {
			return newCollector(t, "unix", filepath.Join(t.TempDir(), "s"), forward)
		}, func(a string) []string { return []string{"fluentd-address=unix://" + a, "fluentd-async=true"} }},
		{"gelf", "gelf", func(t testing.TB) *collector { return newGELFPackets(t) },
			func(a string) []string { return []string{"gelf-address=udp://" + a} }},
		{"gelf zlib", "gelf", func(t testing.TB) *collector { return newGELFPackets(t) },
			func(a string) []string {
				return []string{"gelf-address=udp://" + a, "gelf-compression-type=zlib", "gelf-compression-level=9"}
			}},
		{"gelf plain", "gelf", func(t testing.TB) *collector { return newGELFPackets(t) },
			func(a string) []string { return []string{"gelf-address=udp://" + a, "gelf-compression-type=none"} }},
		{"gelf by tcp", "gelf", func(t testing.TB) *collector { return newCollector(t, "tcp", "127.0.0.1:0", gelfStream) },
			func(a string) []string { return []string{"gelf-address=tcp://" + a} }},
		{"syslog by tcp", "syslog", func(t testing.TB) *collector { return newCollector(t, "tcp", "127.0.0.1:0", syslogStream) },
			func(a string) []string { return []string{"syslog-address=tcp://" + a, "syslog-facility=local0"} }},
		{"syslog by tls", "syslog", func(t testing.TB) *collector {
			c := &collector{t: t, network: "tcp", addr: "127.0.0.1:0", serve: syslogStream, wrap: wrap}
			c.open()
			t.Cleanup(c.close)
			return c
		}, func(a string) []string {
			return []string{"syslog-address=tcp+tls://" + a, "syslog-tls-ca-cert=" + secret, "syslog-format=rfc5424micro"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			to := c.make(t)
			args := []string{"run", "-d", "--name", s.name("box"), "--label", "shop=eu", "-e", "STAGE=test", "--log-driver", c.driver, "--log-opt", "labels=shop", "--log-opt", "env=STAGE"}
			for _, o := range c.options(to.addr) {
				args = append(args, "--log-opt", o)
			}
			const script = `echo first; sleep 0.05; echo "second <&>" >&2; sleep 0.05; head -c 20000 /dev/zero | tr '\0' x; echo; printf last`
			id := s.ok(append(args, "busybox", "sh", "-c", script)...)
			began := time.Now()
			got := to.await(5)
			s.sent(c.driver, c.name, id, began, got)
			s.equal("waited", s.ok("wait", id), "0")
			r := s.docker("logs", id)
			s.equal("read back", fmt.Sprint(r.Stdout[:6], len(r.Stdout), r.Stdout[len(r.Stdout)-5:]), fmt.Sprint("first\n", 6+20001+4, "\nlast"))
			s.equal("stderr", r.Stderr, "second <&>\n")
			s.contains("details", s.ok("logs", "--details", "--tail", "1", id), "STAGE=test,shop=eu last")
			s.equal("path", s.inspect(id, "{{.LogPath}}"), "")
			if n := len(to.all()); n != 5 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// sent checks what the collector got.
func (s *scene) sent(driver, name, id string, began time.Time, got []message) {
	s.Helper()
	var texts, streams []string
	for _, m := range got {
		texts, streams = append(texts, fmt.Sprintf("%.10s/%d", m.text, len(m.text))), append(streams, m.stream)
	}
	s.equal("texts", strings.Join(texts, " "), "first/5 second <&>/10 xxxxxxxxxx/16384 xxxxxxxxxx/3616 last/4")
	s.equal("streams", strings.Join(streams, " "), "stdout stderr stdout stdout stdout")
	m := got[0]
	switch driver {
	case "fluentd":
		want := map[string]string{"container_id": id, "container_name": "/" + s.name("box"), "shop": "eu", "STAGE": "test"}
		for k, v := range want {
			s.equal(k, m.fields[k], v)
		}
		s.equal("pieces", got[2].fields["partial_ordinal"]+got[2].fields["partial_last"]+got[3].fields["partial_ordinal"]+got[3].fields["partial_last"], "1false2true")
		if got[2].fields["partial_id"] != got[3].fields["partial_id"] || m.fields["partial_message"] != "" {
			s.Errorf("pieces: %v %v", got[2].fields["partial_id"], m.fields)
		}
		if m.tag != "app."+s.name("box") && m.tag != id[:12] {
			s.Errorf("tag %q", m.tag)
		}
	case "gelf":
		want := map[string]string{"version": "1.1", "_container_id": id, "_container_name": s.name("box"), "_image_name": "busybox", "_shop": "eu", "_STAGE": "test", "_tag": id[:12]}
		for k, v := range want {
			s.equal(k, m.fields[k], v)
		}
		s.contains("command", m.fields["_command"], "sh -c echo first")
		s.contains("image", m.fields["_image_id"], "sha256:")
	case "syslog":
		if name == "syslog by tls" {
			s.contains("RFC 5424", m.fields["raw"], "<30>1 ", " "+id[:12]+" ")
		} else {
			s.contains("local0", m.fields["raw"], "<134>", id[:12]+"[")
		}
		return
	}
	if d := began.Sub(m.at); d.Abs() > 2*busy {
		s.Errorf("time %v", m.at)
	}
}

// certificate makes one for 127.0.0.1, in a file, and what serves with it.
func certificate(t testing.TB) (string, func(net.Listener) net.Listener) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return p, func(l net.Listener) net.Listener { return tls.NewListener(l, config) }
}

// TestLogCollectorGone: a collector that is not there, that comes, goes and
// comes again, while the daemon is killed too, costs no line.
func TestLogCollectorGone(t *testing.T) {
	s := ownDaemon(t)
	to := newCollector(t, "unix", filepath.Join(t.TempDir(), "s"), forward) // the daemon has a network of its own
	to.close()
	opts := []string{"--log-driver", "fluentd", "--log-opt", "fluentd-address=unix://" + to.addr}
	// The CLI takes "no such file" for a missing program.
	s.fails(127, "failed to initialize logging driver", append(append([]string{"run"}, opts...), "busybox", "true")...)
	opts = append(opts, "--log-opt", "fluentd-request-ack=true", "--log-opt", "fluentd-retry-wait=100ms", "--log-opt", "fluentd-async=true")
	const lines = 400
	id := s.running(append(opts, "busybox", "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; sleep 0.01; done; sleep 1", lines))...)
	time.Sleep(500 * time.Millisecond)
	to.open()
	to.await(20)
	to.close()
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	to.open()
	to.await(150)
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	to.close()
	time.Sleep(200 * time.Millisecond)
	to.open()
	s.equal("code", s.ok("wait", id), "0")
	want := 1
	err := eventually(15*time.Second, func() error {
		seen := map[int]bool{}
		for _, m := range to.all() {
			n, _ := strconv.Atoi(m.text)
			seen[n] = true
		}
		if len(seen) != lines {
			return fmt.Errorf("%d of %d lines were delivered", len(seen), lines)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, m := range to.all() {
		n, _ := strconv.Atoi(m.text)
		if n > want || n < want-1 { // once more what was on its way when the collector went
			t.Errorf("%d came, %d was due", n, want)
			break
		}
		want = n + 1
	}
	s.equal("read back", strconv.Itoa(len(strings.Fields(s.ok("logs", id)))), strconv.Itoa(lines))
}

func TestLogCopy(t *testing.T) {
	s := newScene(t)
	to := newCollector(t, "tcp", "127.0.0.1:0", gelfStream)
	opts := []string{"--log-driver", "gelf", "--log-opt", "gelf-address=tcp://" + to.addr}
	id := s.running(append(opts, "--log-opt", "cache-disabled=true", "busybox", "echo", "no copy")...)
	s.ok("wait", id)
	s.equal("delivered", to.await(1)[0].text, "no copy")
	s.fails(1, "configured logging driver does not support reading", "logs", id)

	// Piece by piece: nobody promises to deliver what the copy holds no more.
	id = s.running(append(opts, "--log-opt", "cache-max-size=50k", "--log-opt", "cache-max-file=3", "busybox", "sh", "-c",
		"for k in 0 1 2 3 4; do seq $((k*2000+1)) $((k*2000+2000)); until [ -e /go$k ]; do sleep 0.05; done; rm /go$k; done")...)
	delivered := func(before int) []message {
		t.Helper()
		for k := range 5 {
			to.await(before + 2000*(k+1))
			s.ok("exec", id, "touch", fmt.Sprint("/go", k))
		}
		s.ok("wait", id)
		return to.all()
	}
	follow := make(chan result, 1)
	go func() { follow <- s.d.command(5*commandLimit, nil, tools.docker, "logs", "-f", "--tail", "10", id) }()
	got := delivered(1)
	followed := strings.Fields((<-follow).Stdout)
	if n := len(followed); n < 10 || followed[n-1] != "10000" {
		t.Errorf("followed %d lines", n)
	}
	kept := strings.Fields(s.ok("logs", id))
	if n := len(kept); n < 500 || n >= 10000 || kept[n-1] != "10000" {
		t.Errorf("%d lines are kept", n)
	}
	last := slices.IndexFunc(got, func(m message) bool { return m.text == "10000" })
	if last < 0 {
		t.Error("the last line was not delivered")
	}
	s.ok("start", id) // goes on behind what was delivered
	got = delivered(10001)
	if got[10001].text != "1" {
		t.Errorf("after the second start came %q", got[10001].text)
	}
	s.fails(125, "gelf-address", "run", "--log-driver", "gelf", "busybox", "true")
	s.fails(125, "cache-max-size=big", append(append([]string{"run"}, opts...), "--log-opt", "cache-max-size=big", "busybox", "true")...)
}
