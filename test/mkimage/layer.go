package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"sort"
	"strings"
)

// layer builds a tar in memory.
type layer struct {
	buf bytes.Buffer
	tw  *tar.Writer
	err error
}

func newLayer() *layer {
	l := &layer{}
	l.tw = tar.NewWriter(&l.buf)
	return l
}

func (l *layer) dir(name string, mode int64) {
	l.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (l *layer) link(name, target string) {
	l.header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755})
}

func (l *layer) symlink(name, target string) {
	l.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (l *layer) file(name string, mode int64, data []byte) {
	l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
	if l.err == nil {
		_, l.err = l.tw.Write(data)
	}
}

func (l *layer) header(h *tar.Header) {
	h.ModTime = epoch
	if l.err == nil {
		l.err = l.tw.WriteHeader(h)
	}
}

func (l *layer) bytes() ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	if err := l.tw.Close(); err != nil {
		return nil, err
	}
	return l.buf.Bytes(), nil
}

// busyboxLayer is a root of one program, a link to it for every applet, and
// the few files of /etc that programs look into.
func busyboxLayer(busybox string) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian: apt-get install busybox-static)", err)
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	l := newLayer()
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/spool", "var/log"} {
		l.dir(d, 0o755)
	}
	l.dir("tmp", 0o1777)
	l.dir("var/tmp", 0o1777)
	l.symlink("sbin", "bin")
	l.symlink("var/run", "../run")
	l.file("bin/busybox", 0o755, program)
	applets := strings.Fields(string(out))
	sort.Strings(applets)
	for _, a := range applets {
		if a != "busybox" {
			l.link("bin/"+a, "bin/busybox")
		}
	}
	l.symlink("usr/bin/env", "../../bin/env")
	l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
		"www-data:x:33:33:www-data:/var/www:/bin/false\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"))
	l.file("etc/group", 0o644, []byte("root:x:0:\ndaemon:x:1:\nadm:x:4:user\nwww-data:x:33:\nuser:x:1000:\nnogroup:x:65534:\n"))
	l.file("etc/shadow", 0o640, []byte("root:*:::::::\n"))
	return l.bytes()
}

// filesLayer makes a layer of PATH=CONTENT words.
func filesLayer(files []string) ([]byte, error) {
	l := newLayer()
	made := map[string]bool{".": true}
	for _, f := range files {
		name, content, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("-file %q: want PATH=CONTENT", f)
		}
		mode := int64(0o644)
		if n, x := strings.CutSuffix(name, "!"); x {
			name, mode = n, 0o755
		}
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		parent := ""
		for part := range strings.SplitSeq(path.Dir(name), "/") {
			parent = path.Join(parent, part)
			if !made[parent] {
				made[parent] = true
				l.dir(parent, 0o755)
			}
		}
		l.file(name, mode, []byte(strings.ReplaceAll(content, `\n`, "\n")))
	}
	return l.bytes()
}
