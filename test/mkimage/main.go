// Command mkimage writes a Docker archive (what `docker load` reads) from root
// file system tars, with nothing but the standard library. The tests' images
// and the installed wharf/base are made with it.
//
//	mkimage -o base.tar -busybox /bin/busybox wharf/base:latest busybox:latest
//	mkimage -o debian.tar -layer rootfs.tar -cmd bash debian:bookworm
//	mkimage -o nginx.tar -layer rootfs.tar -layer more.tar -expose 80/tcp nginx:latest
//
// The same input gives the same bytes, hence the same image id.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// words is a flag that may be given more than once.
type words []string

func (w *words) String() string     { return strings.Join(*w, " ") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

type options struct {
	out, busybox, cmd, entrypoint, arch, comment, stopSignal, user, workdir string
	layers, env, expose, volume, label, extra                               words
}

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "archive to write")
	flag.StringVar(&o.busybox, "busybox", "", "make a first layer of this static busybox and a minimal /etc")
	flag.StringVar(&o.cmd, "cmd", "", "command, split at spaces")
	flag.StringVar(&o.entrypoint, "entrypoint", "", "entrypoint, split at spaces")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture")
	flag.StringVar(&o.comment, "comment", "", "history comment")
	flag.StringVar(&o.stopSignal, "stop-signal", "", "stop signal")
	flag.StringVar(&o.user, "user", "", "user")
	flag.StringVar(&o.workdir, "workdir", "", "working directory")
	flag.Var(&o.layers, "layer", "root file system tar, one per layer, lowest first")
	flag.Var(&o.env, "env", "KEY=VALUE")
	flag.Var(&o.expose, "expose", "80/tcp")
	flag.Var(&o.volume, "volume", "path")
	flag.Var(&o.label, "label", "key=value")
	flag.Var(&o.extra, "file", "PATH=CONTENT: a file in a last layer of its own; content \\n is a newline, a path ending in ! is executable")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(o options, names []string) error {
	if o.out == "" || len(names) == 0 || (o.busybox == "" && len(o.layers) == 0) {
		return errors.New("need -o, a name, and -busybox or -layer")
	}
	// Written beside and renamed, so that a killed run leaves no half image.
	f, err := os.Create(o.out + ".tmp")
	if err != nil {
		return err
	}
	defer os.Remove(o.out + ".tmp")
	defer f.Close()
	if err := write(f, o, names); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(o.out+".tmp", o.out)
}

// write writes the archive: layers, config, manifest.json.
func write(w io.Writer, o options, names []string) error {
	tw := tar.NewWriter(w)
	var paths, diffIDs []string
	add := func(open func() (io.ReadCloser, int64, error)) error {
		sum, err := digest(open)
		if err != nil {
			return err
		}
		path := sum + "/layer.tar"
		r, size, err := open()
		if err != nil {
			return err
		}
		defer r.Close()
		if err := tw.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: size, ModTime: epoch}); err != nil {
			return err
		}
		if _, err := io.Copy(tw, r); err != nil {
			return err
		}
		paths, diffIDs = append(paths, path), append(diffIDs, "sha256:"+sum)
		return nil
	}
	if o.busybox != "" {
		layer, err := busyboxLayer(o.busybox)
		if err != nil {
			return err
		}
		if err := add(fromBytes(layer)); err != nil {
			return err
		}
	}
	for _, name := range o.layers {
		if err := add(fromFile(name)); err != nil {
			return err
		}
	}
	if len(o.extra) > 0 {
		layer, err := filesLayer(o.extra)
		if err != nil {
			return err
		}
		if err := add(fromBytes(layer)); err != nil {
			return err
		}
	}
	config, err := json.Marshal(imageConfig(o, diffIDs))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": names, "Layers": paths}})
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{configName, config}, {"manifest.json", manifest}} {
		if err := tw.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.data)), ModTime: epoch}); err != nil {
			return err
		}
		if _, err := tw.Write(file.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// epoch stamps everything that has no time of its own.
var epoch = time.Unix(1_700_000_000, 0).UTC()

func fromBytes(b []byte) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
	}
}

func fromFile(name string) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, err
		}
		fi, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, 0, err
		}
		return f, fi.Size(), nil
	}
}

func digest(open func() (io.ReadCloser, int64, error)) (string, error) {
	r, _, err := open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// imageConfig is the image's configuration in Docker's form.
func imageConfig(o options, diffIDs []string) map[string]any {
	set := func(w words) map[string]struct{} {
		m := map[string]struct{}{}
		for _, k := range w {
			m[k] = struct{}{}
		}
		return m
	}
	labels := map[string]string{}
	for _, l := range o.label {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, o.env...)
	config := map[string]any{"Env": env, "Cmd": strings.Fields(o.cmd), "Entrypoint": strings.Fields(o.entrypoint),
		"Labels": labels, "StopSignal": o.stopSignal, "User": o.user, "WorkingDir": o.workdir}
	if o.cmd == "" {
		config["Cmd"] = []string{"sh"}
	}
	if o.entrypoint == "" {
		delete(config, "Entrypoint")
	}
	if len(o.expose) > 0 {
		config["ExposedPorts"] = set(o.expose)
	}
	if len(o.volume) > 0 {
		config["Volumes"] = set(o.volume)
	}
	var history []map[string]any
	for range diffIDs {
		history = append(history, map[string]any{"created": epoch, "created_by": "wharf mkimage", "comment": o.comment})
	}
	return map[string]any{
		"architecture": o.arch, "os": "linux", "created": epoch, "config": config, "history": history,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}
}
