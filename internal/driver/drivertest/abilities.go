package drivertest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// processes: a Lister's are those of the instance, with the texts of /proc.
func processes(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "sleep 100 & echo ready; wait")
	i := start(t, g.Driver, b)
	l, ok := i.(driver.Lister)
	if !ok {
		t.Skip("its processes are the host's")
	}
	logged(t, b.Log.Path, "ready")
	var proc fs.FS
	for end := time.Now().Add(limit + slow); ; time.Sleep(20 * time.Millisecond) {
		var pids []int
		var err error
		proc, pids, err = l.Processes(ctxOf(t))
		must(t, err)
		var names []string
		for _, p := range pids {
			text, err := fs.ReadFile(proc, strconv.Itoa(p)+"/cmdline")
			must(t, err)
			name, _, _ := strings.Cut(string(text), "\x00")
			names = append(names, name)
		}
		if len(pids) == 2 && slices.Contains(names, "sleep") { // the shell's child may not have become it yet
			break
		}
		if time.Now().After(end) {
			t.Fatalf("processes %v: %v", pids, names)
		}
	}
	for _, name := range []string{"uptime", "meminfo"} {
		if _, err := fs.ReadFile(proc, name); err != nil {
			t.Error(err)
		}
	}
}

// files: a Filer shows a running instance's files and a stopped one's, takes
// new ones, and knows what has changed.
func files(t *testing.T, g Target) {
	d, ok := g.Driver.(driver.Filer)
	if !ok {
		t.Skip("its files are in directories of the host's")
	}
	b := g.Bundle(t, "/bin/sh", "-c", "echo made > /made; rm /etc/group; echo ready; read x; cat /tmp/put")
	b.OpenStdin = true
	i := start(t, g.Driver, b)
	logged(t, b.Log.Path, "ready")
	look(t, d, b)
	s, err := i.Attach(ctxOf(t), true, true, false)
	must(t, err)
	_, err = io.WriteString(s, "x\n")
	must(t, err)
	if out, _ := drain(t, s); out != "content\n" {
		t.Errorf("the instance reads %q", out)
	}
	_ = s.Close()
	wait(t, i)
	must(t, g.Driver.Release(ctxOf(t), b.ID))
	look(t, d, b)
	if err := i.Signal(ctxOf(t), syscall.SIGKILL); !errdefs.IsNotFound(err) {
		t.Errorf("signal after the end, while somebody looks at the files: %v", err)
	}
}

// look asks everything of an instance's files.
func look(t *testing.T, d driver.Filer, b *model.Bundle) {
	t.Helper()
	f, err := d.Files(ctxOf(t), b.ID, b.IDs, b.Rootfs)
	must(t, err)
	defer f.Close()
	st, err := f.Stat(ctxOf(t), "/made")
	if err != nil || st.Name != "made" || st.Size != 5 {
		t.Errorf("stat %+v %v", st, err)
	}
	if _, err := f.Stat(ctxOf(t), "/nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("stat of nothing: %v", err)
	}
	rc, _, err := f.Get(ctxOf(t), "/made")
	must(t, err)
	if got := untar(t, rc)["made"]; got != "made\n" {
		t.Errorf("read %q", got)
	}
	must(t, f.Put(ctxOf(t), "/tmp", model.PutOptions{}, oneFile(t, "put", "content\n")))
	changes, err := f.Changes(ctxOf(t))
	must(t, err)
	var all []string
	for _, c := range changes {
		all = append(all, strconv.Itoa(int(c.Kind))+" "+c.Path)
	}
	for _, want := range []string{"1 /made", "2 /etc/group", "1 /tmp/put"} {
		if !slices.Contains(all, want) {
			t.Errorf("changes %q lack %q", all, want)
		}
	}
	rc, err = f.Layer(ctxOf(t))
	must(t, err)
	layer := untar(t, rc)
	if _, ok := layer["etc/.wh.group"]; !ok || layer["made"] != "made\n" {
		t.Errorf("layer %q", layer)
	}
	rc, err = f.Export(ctxOf(t))
	must(t, err)
	if all := untar(t, rc); all["tmp/put"] != "content\n" || all["etc/passwd"] == "" {
		t.Errorf("export has %d files", len(all))
	}
}

// untar reads an archive's regular files.
func untar(t testing.TB, rc io.ReadCloser) map[string]string {
	t.Helper()
	defer rc.Close()
	out := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		var b bytes.Buffer
		_, err = io.Copy(&b, r)
		must(t, err)
		out[strings.TrimPrefix(strings.TrimPrefix(h.Name, "./"), "/")] = b.String()
	}
}

func oneFile(t testing.TB, name, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
	_, err := w.Write([]byte(text))
	must(t, err)
	must(t, w.Close())
	return &b
}
