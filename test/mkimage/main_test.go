package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrite reads an archive back: the parts are there, digests are right, and
// the same input gives the same bytes.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs.tar")
	l := newLayer()
	l.file("etc/hello", 0o644, []byte("world"))
	data, err := l.bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rootfs, data, 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{layers: words{rootfs}, cmd: "cat /etc/hello", env: words{"A=1"}, arch: "amd64",
		extra: words{`a/b/c=x\ny`, "run!=#!/bin/sh"}, volume: words{"/data"}}
	var one, two bytes.Buffer
	for _, w := range []io.Writer{&one, &two} {
		if err := write(w, []image{{o, []string{"x:1", "y:2"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two runs differ")
	}
	files := readTar(t, one.Bytes())
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	m := manifest[0]
	if strings.Join(m.RepoTags, " ") != "x:1 y:2" || len(m.Layers) != 2 {
		t.Errorf("manifest: %+v", m)
	}
	sum := sha256.Sum256(files[m.Config])
	if m.Config != hex.EncodeToString(sum[:])+".json" {
		t.Errorf("config is named %s", m.Config)
	}
	var config struct {
		Config struct{ Cmd, Env []string }
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[m.Config], &config); err != nil {
		t.Fatal(err)
	}
	for i, layer := range m.Layers {
		sum := sha256.Sum256(files[layer])
		if want := "sha256:" + hex.EncodeToString(sum[:]); config.Rootfs.DiffIDs[i] != want {
			t.Errorf("diff id %d is %s, want %s", i, config.Rootfs.DiffIDs[i], want)
		}
	}
	top := readTar(t, files[m.Layers[1]])
	if string(top["a/b/c"]) != "x\ny" || string(top["run"]) != "#!/bin/sh" {
		t.Errorf("last layer: %q", top)
	}
}

func readTar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSeveral checks that images of one archive share what they have in common.
func TestSeveral(t *testing.T) {
	l := newLayer()
	l.file("etc/hello", 0o644, []byte("world"))
	data, err := l.bytes()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(root, data, 0o600); err != nil {
		t.Fatal(err)
	}
	images, err := parse([]string{"-o", "x", "-layer", root, "one:1", "--", "-layer", root, "-file", "a=b", "two:1", "two:2"})
	if err != nil {
		t.Fatal(err)
	}
	var w bytes.Buffer
	if err := write(&w, images); err != nil {
		t.Fatal(err)
	}
	var layers, configs int
	var manifest []struct{ RepoTags, Layers []string }
	for tr := tar.NewReader(&w); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasSuffix(h.Name, "/layer.tar"):
			layers++
		case h.Name == "manifest.json":
			if err := json.NewDecoder(tr).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		default:
			configs++
		}
	}
	if layers != 2 || configs != 2 || len(manifest) != 2 || len(manifest[1].RepoTags) != 2 || manifest[0].Layers[0] != manifest[1].Layers[0] {
		t.Errorf("%d layers, %d configs, manifest %+v", layers, configs, manifest)
	}
	for _, bad := range [][]string{{}, {"-o", "x", "name"}, {"-o", "x", "-layer", root, "one:1", "--"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
