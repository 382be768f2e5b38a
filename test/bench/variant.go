package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// variants writes n archives that differ in one small file of their one layer,
// so that an engine can load image after image and unpack each. To remove and
// load the same one again would measure ext4: a file system looks long for an
// inode where many were freed just before.
func variants(archive, dir string, n int) ([]string, error) {
	layer, config, err := readArchive(archive)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("variant%d.tar", i))
		if err := writeVariant(path, layer, config, i); err != nil {
			return nil, err
		}
		out = append(out, path)
	}
	return out, nil
}

// readArchive takes the layer and the configuration out of a docker-archive
// with one of each.
func readArchive(path string) (layer []byte, config map[string]any, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, nil, err
		}
	}
	var m []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil || len(m) != 1 || len(m[0].Layers) != 1 {
		return nil, nil, fmt.Errorf("%s: want one image with one layer: %v", path, err)
	}
	return files[m[0].Layers[0]], config, json.Unmarshal(files[m[0].Config], &config)
}

// writeVariant puts one more file in front of the layer's others.
func writeVariant(path string, layer []byte, config map[string]any, i int) error {
	var first bytes.Buffer
	text := fmt.Appendf(nil, "variant %d\n", i)
	w := tar.NewWriter(&first)
	if err := w.WriteHeader(&tar.Header{Name: "variant", Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Flush(); err != nil { // no end: the layer follows
		return err
	}
	sum := sha256.New()
	sum.Write(first.Bytes())
	sum.Write(layer)
	id := hex.EncodeToString(sum.Sum(nil))
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + id}}
	c, err := json.Marshal(config)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%x.json", sha256.Sum256(c))
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{fmt.Sprintf("variant:%d", i)}, "Layers": []string{id + "/layer.tar"}}})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := tar.NewWriter(f)
	for _, x := range []struct {
		name  string
		parts [][]byte
	}{{id + "/layer.tar", [][]byte{first.Bytes(), layer}}, {name, [][]byte{c}}, {"manifest.json", [][]byte{manifest}}} {
		size := 0
		for _, p := range x.parts {
			size += len(p)
		}
		if err := out.WriteHeader(&tar.Header{Name: x.name, Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		for _, p := range x.parts {
			if _, err := out.Write(p); err != nil {
				return err
			}
		}
	}
	return out.Close()
}
