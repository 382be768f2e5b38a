// Command mkimage writes a Docker archive (what `docker load` reads) from root
// file system tars, with nothing but the standard library. The tests' images
// and the installed wharf/base are made with it.
//
//	mkimage -o base.tar -busybox /bin/busybox wharf/base:latest busybox:latest
//	mkimage -o debian.tar -layer rootfs.tar -cmd bash debian:bookworm
//	mkimage -o nginx.tar -layer rootfs.tar -layer more.tar -expose 80/tcp nginx:latest
//	mkimage -o two.tar -layer rootfs.tar one:latest -- -layer rootfs.tar -layer more.tar two:latest
//
// Words after -- describe a further image of the same archive; a layer that
// several images have is written once.
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
	"slices"
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

// image is one image of the archive.
type image struct {
	options
	names []string
}

func main() {
	images, err := parse(os.Args[1:])
	if err == nil {
		err = run(images)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

// parse reads the command line; each -- begins a further image.
func parse(args []string) ([]image, error) {
	var images []image
	for more := true; more; {
		var part []string
		part, args, more = cutArgs(args)
		var i image
		fs := flag.NewFlagSet("mkimage", flag.ContinueOnError)
		i.flags(fs)
		if err := fs.Parse(part); err != nil {
			return nil, err
		}
		i.names = fs.Args()
		if len(i.names) == 0 || (i.busybox == "" && len(i.layers) == 0) {
			return nil, errors.New("need a name, and -busybox or -layer")
		}
		images = append(images, i)
	}
	return images, nil
}

func cutArgs(args []string) (before, after []string, found bool) {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i], args[i+1:], true
	}
	return args, nil, false
}

func (o *options) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.out, "o", "", "archive to write")
	fs.StringVar(&o.busybox, "busybox", "", "make a first layer of this static busybox and a minimal /etc")
	fs.StringVar(&o.cmd, "cmd", "", "command, split at spaces")
	fs.StringVar(&o.entrypoint, "entrypoint", "", "entrypoint, split at spaces")
	fs.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture")
	fs.StringVar(&o.comment, "comment", "", "history comment")
	fs.StringVar(&o.stopSignal, "stop-signal", "", "stop signal")
	fs.StringVar(&o.user, "user", "", "user")
	fs.StringVar(&o.workdir, "workdir", "", "working directory")
	fs.Var(&o.layers, "layer", "root file system tar, one per layer, lowest first")
	fs.Var(&o.env, "env", "KEY=VALUE")
	fs.Var(&o.expose, "expose", "80/tcp")
	fs.Var(&o.volume, "volume", "path")
	fs.Var(&o.label, "label", "key=value")
	fs.Var(&o.extra, "file", "PATH=CONTENT: a file in a last layer of its own; content \\n is a newline, a path ending in ! is executable")
}

func run(images []image) error {
	out := images[0].out
	if out == "" {
		return errors.New("need -o")
	}
	// Written beside and renamed, so that a killed run leaves no half image.
	f, err := os.Create(out + ".tmp")
	if err != nil {
		return err
	}
	defer os.Remove(out + ".tmp")
	defer f.Close()
	if err := write(f, images); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(out+".tmp", out)
}

// archive writes layers, each once, and what describes the images.
type archive struct {
	tw       *tar.Writer
	has      map[string]bool
	manifest []map[string]any
}

// write writes the archive: layers, configs, manifest.json.
func write(w io.Writer, images []image) error {
	a := &archive{tw: tar.NewWriter(w), has: map[string]bool{}}
	for _, i := range images {
		if err := a.image(i); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal(a.manifest)
	if err != nil {
		return err
	}
	if err := a.add("manifest.json", int64(len(manifest)), bytes.NewReader(manifest)); err != nil {
		return err
	}
	return a.tw.Close()
}

func (a *archive) image(i image) error {
	var sources []func() (io.ReadCloser, int64, error)
	if i.busybox != "" {
		layer, err := busyboxLayer(i.busybox)
		if err != nil {
			return err
		}
		sources = append(sources, fromBytes(layer))
	}
	for _, name := range i.layers {
		sources = append(sources, fromFile(name))
	}
	if len(i.extra) > 0 {
		layer, err := filesLayer(i.extra)
		if err != nil {
			return err
		}
		sources = append(sources, fromBytes(layer))
	}
	var paths, diffIDs []string
	for _, open := range sources {
		sum, err := a.layer(open)
		if err != nil {
			return err
		}
		paths, diffIDs = append(paths, sum+"/layer.tar"), append(diffIDs, "sha256:"+sum)
	}
	config, err := json.Marshal(imageConfig(i.options, diffIDs))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	name := hex.EncodeToString(sum[:]) + ".json"
	a.manifest = append(a.manifest, map[string]any{"Config": name, "RepoTags": i.names, "Layers": paths})
	return a.add(name, int64(len(config)), bytes.NewReader(config))
}

// layer adds a layer and returns its digest.
func (a *archive) layer(open func() (io.ReadCloser, int64, error)) (string, error) {
	sum, err := digest(open)
	if err != nil {
		return "", err
	}
	r, size, err := open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	return sum, a.add(sum+"/layer.tar", size, r)
}

func (a *archive) add(name string, size int64, r io.Reader) error {
	if a.has[name] {
		return nil
	}
	a.has[name] = true
	if err := a.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch}); err != nil {
		return err
	}
	_, err := io.Copy(a.tw, r)
	return err
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
