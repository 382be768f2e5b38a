package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Variants are whole archives whose layers differ and have the digests that
// their configurations say.
func TestVariants(t *testing.T) {
	dir := t.TempDir()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	_ = w.WriteHeader(&tar.Header{Name: "old", Mode: 0o644, Size: 3})
	_, _ = io.WriteString(w, "old")
	_ = w.Close()
	base := filepath.Join(dir, "base.tar")
	if err := writeVariant(base, layer.Bytes(), map[string]any{"os": "linux"}, 99); err != nil {
		t.Fatal(err)
	}
	files, err := variants(base, dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, f := range files {
		b, config, err := readArchive(f)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
		if want := fmt.Sprint(config["rootfs"]); !strings.Contains(want, id) || seen[id] {
			t.Errorf("layer %s, configuration %s", id, want)
		}
		seen[id] = true
		var names []string
		for tr := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != "variant variant old" {
			t.Errorf("variant %d has %q", i, got)
		}
		if st, err := os.Stat(f); err != nil || st.Size() == 0 {
			t.Error(err)
		}
	}
}
