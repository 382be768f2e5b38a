package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wharfd runs the daemon's program to its end.
func wharfd(t *testing.T, args ...string) result {
	t.Helper()
	if notHere != "" {
		t.Skip(notHere)
	}
	return shared.command(10*time.Second, nil, filepath.Join(tools.bin, "wharfd"), args...)
}

func TestDaemonCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base := []string{"--data-root", dir + "/d", "--exec-root", dir + "/x", "--pidfile", dir + "/pid", "-H", "unix://" + dir + "/s"}
	for _, c := range []struct {
		name   string
		args   []string
		code   bool // zero
		output string
	}{
		{"version", []string{"--version"}, true, "wharf"},
		{"help", []string{"--help"}, true, "--data-root"},
		{"valid", []string{"--validate", "--config-file", file("good.json", `{"log-driver":"local","debug":true}`)}, true, ""},
		{"unknown key", []string{"--validate", "--config-file", file("bad.json", `{"nonesuch":1}`)}, false, "nonesuch"},
		{"no JSON", []string{"--validate", "--config-file", file("worse.json", `{`)}, false, "worse.json"},
		{"key and flag", []string{"--validate", "--log-driver", "local", "--config-file", file("both.json", `{"log-driver":"json-file"}`)}, false, "log-driver"},
		{"unknown flag", []string{"--nonesuch"}, false, "nonesuch"},
		{"unknown log driver", append([]string{"--log-driver", "nonesuch"}, base...), false, "nonesuch"},
		{"bad host", []string{"-H", "nonesuch://x", "--data-root", dir + "/d", "--exec-root", dir + "/x"}, false, "nonesuch"},
		{"tcp without tls on a real address", []string{"-H", "tcp://0.0.0.0:2375", "--data-root", dir + "/d", "--exec-root", dir + "/x", "--pidfile", dir + "/pid"}, false, "tls"},
		{"missing config", []string{"--validate", "--config-file", dir + "/none.json"}, false, "none.json"},
		{"doctor", []string{"doctor"}, true, "kernel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := wharfd(t, c.args...)
			if (r.Code == 0) != c.code || r.Code < 0 || !strings.Contains(strings.ToLower(r.Stdout+r.Stderr), strings.ToLower(c.output)) {
				t.Errorf("want success %v and %q in the output of %s", c.code, c.output, r)
			}
		})
	}
}

// TestOneDaemonPerDataRoot starts a second one on the shared one's data.
func TestOneDaemonPerDataRoot(t *testing.T) {
	dir := t.TempDir()
	r := wharfd(t, "--data-root", shared.data(), "--exec-root", dir+"/x", "--pidfile", dir+"/pid", "-H", "unix://"+dir+"/s")
	if r.Code <= 0 || !strings.Contains(r.Stderr+r.Stdout, shared.data()) {
		t.Errorf("a second daemon: %s", r)
	}
}

func TestModes(t *testing.T) {
	s := newScene(t)
	for path, want := range map[string]os.FileMode{s.d.data(): 0o700, s.d.execDir(): 0o700, s.d.socket(): 0o660} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		// The data root may be entered, for the layers' sake, but not listed.
		if got := fi.Mode().Perm(); got&^want&^0o011 != 0 {
			t.Errorf("%s has mode %o, want at most %o", path, got, want)
		}
	}
}

func TestReload(t *testing.T) {
	s := ownDaemon(t)
	file := filepath.Join(s.d.dir, "daemon.json")
	if err := os.WriteFile(file, []byte(`{"labels":["a=b"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := eventually(5*time.Second, func() error {
		if got := s.docker("info", "-f", "{{.Labels}}").out(); got != "[a=b]" {
			return fmt.Errorf("labels after SIGHUP: %s", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// A mistake in the file must not end the daemon.
	if err := os.WriteFile(file, []byte(`{"labels":`), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = s.d.cmd.Process.Signal(syscall.SIGHUP)
	time.Sleep(200 * time.Millisecond)
	s.equal("still there", s.ok("info", "-f", "{{.Labels}}"), "[a=b]")
	if err := os.WriteFile(file, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSocketActivation starts the daemon as systemd does: a listening socket as
// descriptor 3, readiness told on another socket.
func TestSocketActivation(t *testing.T) {
	if notHere != "" {
		t.Skip(notHere)
	}
	t.Parallel()
	d, err := newDaemon("fd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	l, err := net.Listen("unix", d.socket())
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	notify, err := net.ListenPacket("unixgram", filepath.Join(d.dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	args := []string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, filepath.Join(tools.bin, "wharfd"), "-H", "fd://",
		"--data-root", d.data(), "--exec-root", d.execDir(), "--pidfile", d.dir + "/pid", "--cgroup-parent", d.parent, "--bridge", "none"}
	cmd := exec.Command("sh", args...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.dir, "notify"))
	log, err := os.Create(filepath.Join(d.dir, "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.cmd, d.gone = cmd, make(chan struct{})
	go func() { _ = cmd.Wait(); close(d.gone) }()
	buf := make([]byte, 1000)
	_ = notify.SetReadDeadline(time.Now().Add(15 * time.Second))
	var told string
	for !strings.Contains(told, "READY=1") {
		n, _, err := notify.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no READY=1: %v; got %q\n%s", err, told, d.log(3000))
		}
		told += string(buf[:n]) + "\n"
	}
	if err := d.await(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if r := d.docker("version", "-f", "{{.Server.Os}}"); r.out() != "linux" {
		t.Error(r)
	}
}

// TestTLS talks to a daemon with and without a client certificate.
func TestTLS(t *testing.T) {
	if notHere != "" {
		t.Skip(notHere)
	}
	certs := t.TempDir()
	makeCerts(t, certs)
	addr := freeAddress(t)
	s := ownDaemon(t, "--bridge", "none", "-H", "tcp://"+addr, "--tlsverify", "--tlscacert", certs+"/ca.pem", "--tlscert", certs+"/cert.pem", "--tlskey", certs+"/key.pem")
	tls := []string{"-H", "tcp://" + addr, "--tlsverify", "--tlscacert", certs + "/ca.pem", "--tlscert", certs + "/cert.pem", "--tlskey", certs + "/key.pem"}
	s.equal("with certificate", s.ok(append(tls, "version", "-f", "{{.Server.Os}}")...), "linux")
	if r := s.docker("-H", "tcp://"+addr, "--tls", "--tlscacert", certs+"/ca.pem", "version"); r.Code == 0 {
		t.Errorf("without a client certificate: %s", r)
	}
	if r := s.docker("-H", "tcp://"+addr, "version"); r.Code == 0 {
		t.Errorf("without TLS: %s", r)
	}
}

// makeCerts writes a CA and one certificate for both ends.
func makeCerts(t *testing.T, dir string) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, typ string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tmpl := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
	}
	ca, caKey := tmpl(1, "ca"), key()
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", caDER)
	cert, certKey := tmpl(2, "localhost"), key()
	cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &certKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("cert.pem", "CERTIFICATE", der)
	keyDER, err := x509.MarshalPKCS8PrivateKey(certKey)
	if err != nil {
		t.Fatal(err)
	}
	write("key.pem", "PRIVATE KEY", keyDER)
}

// TestInstall stages an installation and runs what is in it.
func TestInstall(t *testing.T) {
	if notHere != "" {
		t.Skip(notHere)
	}
	dest := t.TempDir()
	install := func(args ...string) {
		t.Helper()
		cmd := exec.Command("bash", append([]string{"packaging/install.sh"}, args...)...)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "DESTDIR="+dest, "PREFIX=/usr", "UNITDIR=/usr/lib/systemd/system")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	install()
	for _, f := range []string{"bin/wharf", "bin/wharfd", "bin/wharf-monitor", "bin/wharf-logger", "bin/wharf-oci", "share/wharf/base.tar", "lib/systemd/system/wharfd.service",
		"lib/systemd/system/wharfd.socket", "share/bash-completion/completions/wharf", "share/doc/wharf/copyright"} {
		if fi, err := os.Stat(filepath.Join(dest, "usr", f)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", f, err)
		}
	}
	unit, _ := os.ReadFile(filepath.Join(dest, "usr/lib/systemd/system/wharfd.service"))
	for _, line := range []string{"Type=notify", "KillMode=process", "Delegate=yes", "ExecStart=/usr/bin/wharfd -H fd://"} {
		if !strings.Contains(string(unit), line+"\n") {
			t.Errorf("wharfd.service has no line %s", line)
		}
	}
	// The installed daemon finds its monitor beside it and has wharf/base.
	d, err := newDaemon("inst")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := eventually(3*time.Second, func() error { return d.fsckDown() })
		killStrays(d.dir)
		removeGroups(d.parent)
		if err := errors.Join(err, os.RemoveAll(d.dir)); err != nil {
			t.Error(err)
		}
	})
	d.bin = filepath.Join(dest, "usr/bin")
	if err := d.ownNetwork(); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	r := d.command(commandLimit, nil, filepath.Join(d.bin, "wharf"), "run", "--rm", "wharf/base", "echo", "hello")
	if r.out() != "hello" {
		t.Errorf("the installed wharf: %s", r)
	}
	if err := errors.Join(d.emptyTrash(), d.stop()); err != nil {
		t.Error(err)
	}
	install("--remove")
	left := 0
	_ = filepath.WalkDir(dest, func(_ string, e os.DirEntry, _ error) error {
		if e != nil && !e.IsDir() {
			left++
		}
		return nil
	})
	if left != 0 {
		t.Errorf("uninstall leaves %d files", left)
	}
}
