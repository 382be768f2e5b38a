package image

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckCerts(t *testing.T) {
	const cert, key = "-----BEGIN CERTIFICATE-----\n", "-----BEGIN EC PRIVATE KEY-----\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing":       {nil, ""},
		"pair":          {map[string]string{"ca.crt": cert, "client.cert": cert, "client.key": key}, ""},
		"in one":        {map[string]string{"client.cert": cert + key}, ""},
		"no key":        {map[string]string{"client.cert": cert, "other.key": key, "other.cert": cert}, "its key client.key is missing"},
		"no cert":       {map[string]string{"client.key": key}, "its certificate client.cert is missing"},
		"by hosts.toml": {map[string]string{"hosts.toml": "", "client.cert": cert}, ""},
	} {
		dir := t.TempDir()
		for f, text := range c.files {
			must(t, os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600))
		}
		err := checkCerts(dir)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := checkCerts(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}

// TestHostsToml: mirrors in their order, each with its own ways; pushes go to
// the host that takes them.
func TestHostsToml(t *testing.T) {
	quick(t)
	f, certs, ctx := newFakeRegistry(), t.TempDir(), t.Context()
	var headers []string
	strict := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header.Get("X-Team"))
		r.URL.Path = strings.Replace(r.URL.Path, "/deep/v2/", "/v2/", 1)
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(strict.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	ca := filepath.Join(certs, "authority.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strict.Certificate().Raw}), 0o600))
	if _, err := x509.ParseCertificate(strict.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	write := func(host, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(certs, host), 0o700))
		must(t, os.WriteFile(filepath.Join(certs, host, "hosts.toml"), []byte(text), 0o600))
	}
	ts := open(t, t.TempDir(), func(o *Options) { o.CertsDir = certs })
	ts.load(t, layered(t).dockerTar(t, "app:1"))
	for name, c := range map[string]struct{ text, push, pull string }{
		"ca.example":     {text: fmt.Sprintf("server = %q\nca = \"../authority.pem\"\n", strict.URL)},
		"deep.example":   {text: fmt.Sprintf("server = %q\nca = %q\noverride_path = true\n[header]\nX-Team = \"blue\"\n", strict.URL+"/deep/v2", ca)},
		"skip.example":   {text: fmt.Sprintf("server = %q\nskip_verify = true\n", strict.URL)},
		"mirror.example": {text: fmt.Sprintf("server = \"https://mirror.example\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = %q\n", gone.URL, strict.URL, ca)},
		"none.example":   {text: fmt.Sprintf("server = %q\n", strict.URL), push: "certificate signed by unknown authority"},
		"read.example":   {text: fmt.Sprintf("server = %q\ncapabilities = [\"pull\", \"resolve\"]\nca = %q\n", strict.URL, ca), push: "takes pushes"},
	} {
		write(name, c.text)
		ref := name + "/team/app:1"
		must(t, ts.Tag(ctx, "app:1", ref))
		err := ts.Push(ctx, ref, nil, nil, nil)
		if (err == nil) != (c.push == "") || err != nil && !strings.Contains(err.Error(), c.push) {
			t.Errorf("push %s: %v, want %q", name, err, c.push)
		}
		if err == nil {
			must(t, ts.Pull(ctx, ref, nil, nil, nil))
		}
	}
	if !strings.Contains(strings.Join(headers, " "), "blue") {
		t.Error("the header was not sent")
	}
}
