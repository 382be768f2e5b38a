package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/tonistiigi/fsutil"
)

// contextInto says where the build's files are: a directory, a URL, or stdin.
// clean removes temporary directories.
func (o *buildOptions) contextInto(opt *client.SolveOpt, stdin io.Reader) (clean func(), err error) {
	t := &temporary{}
	defer func() {
		if err != nil {
			t.clean()
		}
	}()
	opt.LocalMounts = map[string]fsutil.FS{}
	if err := o.moreContexts(opt); err != nil {
		return nil, err
	}
	switch {
	case o.context == "-" && o.file == "-":
		return nil, errors.New("stdin cannot be both the context and the Dockerfile")
	case o.context == "-":
		err = o.fromStdin(opt, stdin, t)
	case isRemote(o.context):
		opt.FrontendAttrs["context"] = o.context
		opt.FrontendAttrs["filename"] = first(o.file, "Dockerfile")
		if o.file == "-" {
			if err = o.dockerfileFrom(opt, stdin, t); err == nil {
				opt.FrontendAttrs["dockerfilekey"] = "dockerfile"
			}
		}
	default:
		err = o.fromDirectory(opt, stdin, t)
	}
	return t.clean, err
}

func isRemote(context string) bool {
	for _, p := range []string{"http://", "https://", "git://", "git@", "ssh://", "github.com/"} {
		if strings.HasPrefix(context, p) {
			return true
		}
	}
	return false
}

func (o *buildOptions) fromDirectory(opt *client.SolveOpt, stdin io.Reader, t *temporary) error {
	dir, err := filepath.Abs(o.context)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(dir); err != nil {
		return fmt.Errorf("context %s: %w", o.context, err)
	} else if !fi.IsDir() {
		return fmt.Errorf("context %s is not a directory", o.context)
	}
	// Files that were sent before are known again by this key.
	host, _ := os.Hostname()
	opt.SharedKey = fmt.Sprintf("wharf:%x", sha256.Sum256([]byte(host+"\x00"+dir)))
	if opt.LocalMounts["context"], err = fsutil.NewFS(dir); err != nil {
		return err
	}
	if o.file == "-" {
		return o.dockerfileFrom(opt, stdin, t)
	}
	file := o.file
	if file == "" {
		file = filepath.Join(dir, "Dockerfile")
	}
	if fi, err := os.Stat(file); err != nil {
		return fmt.Errorf("no Dockerfile: %w (another one: -f FILE)", err)
	} else if fi.IsDir() {
		return fmt.Errorf("the Dockerfile %s is a directory", file)
	}
	opt.FrontendAttrs["filename"] = filepath.Base(file)
	opt.LocalMounts["dockerfile"], err = fsutil.NewFS(filepath.Dir(file))
	return err
}

// dockerfileFrom makes a directory with the Dockerfile that r has.
func (o *buildOptions) dockerfileFrom(opt *client.SolveOpt, r io.Reader, t *temporary) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o600); err != nil {
		return err
	}
	opt.FrontendAttrs["filename"] = "Dockerfile"
	opt.LocalMounts["dockerfile"], err = fsutil.NewFS(dir)
	return err
}

// fromStdin: an archive is the context, anything else is a Dockerfile.
func (o *buildOptions) fromStdin(opt *client.SolveOpt, stdin io.Reader, t *temporary) error {
	r := bufio.NewReaderSize(stdin, 64<<10)
	head, err := r.Peek(2 * 512)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if isArchive(head) {
		up := uploadprovider.New()
		opt.Session = append(opt.Session, up)
		opt.FrontendAttrs["context"] = up.Add(io.NopCloser(r))
		opt.FrontendAttrs["filename"] = first(o.file, "Dockerfile")
		return nil
	}
	if o.file != "" {
		return fmt.Errorf("stdin is no archive, so it is the Dockerfile; leave out -f %s", o.file)
	}
	empty, err := t.dir()
	if err != nil {
		return err
	}
	if opt.LocalMounts["context"], err = fsutil.NewFS(empty); err != nil {
		return err
	}
	return o.dockerfileFrom(opt, r, t)
}

// isArchive looks for a tar, plain or compressed.
func isArchive(head []byte) bool {
	var r io.Reader = bytes.NewReader(head)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		_, err := gzip.NewReader(r)
		return err == nil
	case bytes.HasPrefix(head, []byte("BZh")):
		_, err := bzip2.NewReader(r).Read(make([]byte, 1))
		return err == nil || !errors.As(err, new(bzip2.StructuralError))
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return true
	}
	if len(head) >= 262 && string(head[257:262]) == "ustar" {
		return true // also one whose first header is longer than head
	}
	_, err := tar.NewReader(r).Next()
	return err == nil
}

// moreContexts adds those of --build-context.
func (o *buildOptions) moreContexts(opt *client.SolveOpt) error {
	for _, text := range o.contexts {
		name, where, ok := strings.Cut(text, "=")
		if !ok || name == "" || where == "" {
			return fmt.Errorf("--build-context %q: want name=path", text)
		}
		name = strings.ToLower(name)
		if isRemote(where) || strings.HasPrefix(where, "docker-image://") || strings.HasPrefix(where, "target:") {
			opt.FrontendAttrs["context:"+name] = where
			continue
		}
		if strings.HasPrefix(where, "oci-layout://") {
			return fmt.Errorf("--build-context %q: OCI layouts are not there; load it and use docker-image://NAME", text)
		}
		fs, err := fsutil.NewFS(where)
		if err != nil {
			return fmt.Errorf("--build-context %q: %w", text, err)
		}
		local := "context-" + name
		opt.LocalMounts[local] = fs
		opt.FrontendAttrs["context:"+name] = "local:" + local
	}
	return nil
}

// temporary are directories for the time of the build.
type temporary struct{ dirs []string }

func (t *temporary) dir() (string, error) {
	d, err := os.MkdirTemp("", builder+"-")
	if err == nil {
		t.dirs = append(t.dirs, d)
	}
	return d, err
}

func (t *temporary) clean() {
	for _, d := range t.dirs {
		_ = os.RemoveAll(d)
	}
}
