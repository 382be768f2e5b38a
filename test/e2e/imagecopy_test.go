package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestImageCopy carries images between two engines.
func TestImageCopy(t *testing.T) {
	s := newScene(t)
	other := ownDaemonBeside(t)
	one, two := "copied:"+s.name("1"), "copied:"+s.name("2")
	grown(s, "debian:bookworm", one, "first")
	grown(s, one, two, "second")
	to := "unix://" + other.d.socket()
	r := s.wharf("image", "copy", one, to)
	if r.Code != 0 {
		t.Fatal(r)
	}
	s.contains("copied", r.Stdout, "Copied docker.io/library/"+one)
	other.equal("id", other.inspect(one, "{{.Id}}"), s.inspect(one, "{{.Id}}"))
	other.equal("runs", other.ok("run", "--rm", "--network", "none", one, "cat", "/first"), "first")
	// The second shares all but a small layer; over "ssh", to a socket that is named.
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nfor a; do last=$a; done\nPATH=%s:$PATH exec sh -c \"$last\"\n", tools.bin)
	if err := writeProgram(filepath.Join(bin, "ssh"), script); err != nil {
		t.Fatal(err)
	}
	r = s.d.command(commandLimit, nil, "env", "PATH="+bin+":"+os.Getenv("PATH"), tools.wharf, "image", "copy", two, "ssh://somewhere"+other.d.socket())
	if r.Code != 0 {
		t.Fatal(r)
	}
	if last := r.out()[strings.LastIndex(r.out(), ": ")+2:]; strings.Contains(last, "MB") {
		t.Errorf("the second copy sent %s", last)
	}
	other.equal("runs", other.ok("run", "--rm", "--network", "none", two, "cat", "/second"), "second")
	// Again: nothing is sent. Under another name.
	r = s.wharf("image", "copy", "--as", "renamed:1", two, to)
	s.contains("again", r.Stdout, "Copied renamed:1", "0B sent")
	other.equal("renamed", other.inspect("renamed:1", "{{.Id}}"), s.inspect(two, "{{.Id}}"))
	for text, args := range map[string][]string{
		"No such image: nonesuch:latest": {"nonesuch", to},
		"want ssh://HOST or unix":        {one, "https://x"},
		"no such file or directory":      {one, "unix:///nonesuch.sock"},
		"invalid reference format":       {"--as", "Bad:Name:", one, to},
		"linux/s390x":                    {"--platform", "linux/s390x", one, to},
	} {
		if r := s.wharf(append([]string{"image", "copy"}, args...)...); r.Code == 0 || !strings.Contains(r.Stderr, text) {
			t.Errorf("want %q from %s", text, r)
		}
	}
}

// TestImageCopyBlobs speaks to the endpoints as a broken sender would.
func TestImageCopyBlobs(t *testing.T) {
	s := newScene(t)
	const abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc"
	send := func(method, path, body string, want int) string {
		t.Helper()
		req, _ := http.NewRequest(method, "http://wharf/wharf/v1/copy"+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		resp, err := s.d.http().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b := make([]byte, 4096)
		n, _ := resp.Body.Read(b)
		if resp.StatusCode != want {
			t.Errorf("%s %s: %s %s, want %d", method, path, resp.Status, b[:n], want)
		}
		return string(b[:n])
	}
	begin := func() string {
		t.Helper()
		got := send(http.MethodPost, "", `{"Blobs":[{"Digest":"`+abc+`","Size":3}]}`, 201)
		_, id, _ := strings.Cut(got, `"ID":"`)
		id, _, _ = strings.Cut(id, `"`)
		return id + " " + got
	}
	id, got, _ := strings.Cut(begin(), " ")
	s.contains("missing", got, abc)
	send(http.MethodPut, "/"+id+"/blobs/"+abc+"?size=3", "ab", 400) // breaks off
	id2, got, _ := strings.Cut(begin(), " ")
	s.contains("goes on", got, `"Offset":2`)
	send(http.MethodPut, "/"+id2+"/blobs/"+abc+"?size=3", "abc", 409)
	send(http.MethodPut, "/"+id2+"/blobs/"+abc+"?size=3&offset=2", "x", 400) // wrong content: all of it is dropped
	send(http.MethodPut, "/"+id2+"/blobs/"+abc+"?size=3", "abc", 204)
	s.equal("read", send(http.MethodGet, "/blobs/"+abc+"?offset=1", "", 200), "bc")
	send(http.MethodPost, "/"+id2+"/commit", `{"Name":"x:1","Target":{"Digest":"`+abc+`"}}`, 400)
	send(http.MethodDelete, "/"+id, "", 204)
	send(http.MethodDelete, "/"+id2, "", 204)
	send(http.MethodDelete, "/"+id2, "", 404)
	send(http.MethodPut, "/none/blobs/"+abc+"?size=3", "abc", 404)
	send(http.MethodPost, "", `{"Blobs":[{"Digest":"sha256:../../x","Size":3}]}`, 400)
}

// ownDaemonBeside is a second engine for a test on the shared one, empty and without a bridge.
func ownDaemonBeside(t *testing.T) *scene {
	t.Helper()
	d, err := newDaemon("peer", "--bridge", "none")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	return sceneOn(t, d)
}
