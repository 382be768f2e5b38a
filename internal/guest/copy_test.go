package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
)

// TestFiles: copies both ways, changes and the layer, while the process lives
// and after its end.
func TestFiles(t *testing.T) {
	p := newPlace(t).boot()
	_, s, r := p.run("sh", "-c", "rm /etc/gone; echo new >/etc/new; rm -r /old; mkdir /old; echo b >/old/back; ln /etc/new /etc/hard; echo done; read x")
	if typ, _, err := r.Next(); err != nil || typ != guestapi.Stdout {
		t.Fatalf("%d %v", typ, err)
	}
	p.copies("running")
	if err := guestapi.Write(s, guestapi.CloseStdin, nil); err != nil {
		t.Fatal(err)
	}
	p.output(s, r)
	p.copies("ended")
}

func (p *place) copies(when string) {
	p.t.Helper()
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	_ = w.WriteHeader(&tar.Header{Name: "put-" + when, Typeflag: tar.TypeReg, Mode: 0o640, Size: 4, Uid: 1000, Gid: 1000})
	_, _ = w.Write([]byte("text"))
	_ = w.Close()
	_, s, r := p.ask(guestapi.Request{Op: guestapi.OpPut, Path: "/tmp", Put: &guestapi.Put{}})
	for _, part := range [][]byte{in.Bytes()[:100], in.Bytes()[100:], nil} {
		if err := guestapi.Write(s, guestapi.Data, part); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := r.Expect(guestapi.ReplyFrame, new(guestapi.Reply)); err != nil {
		p.t.Fatalf("%s: put: %v", when, err)
	}
	stat, _, _ := p.ask(guestapi.Request{Op: guestapi.OpStat, Path: "/tmp/put-" + when})
	if !strings.Contains(string(stat.Stat), `"size":4`) {
		p.t.Errorf("%s: stat %s", when, stat.Stat)
	}
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpGet, Path: "/etc/new"})
	p.wantTar(p.data(r), map[string]string{"new": "new\n"}, nil)
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpExport})
	p.wantTar(p.data(r), map[string]string{"etc/kept": "x", "etc/new": "new\n", "old/back": "b\n", "tmp/put-" + when: "text"}, []string{"etc/gone", "old/other"})
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpUpper})
	p.wantTar(p.data(r), map[string]string{"etc/new": "new\n", "old/back": "b\n", "etc/.wh.gone": "", "old/.wh.other": "", "old/.wh.sub": "", "tmp/put-" + when: "text"},
		[]string{"etc/kept", "etc/gone", "old/other", "bin/", "dev/", "etc/hosts"})
	changes, _, _ := p.ask(guestapi.Request{Op: guestapi.OpChanges})
	got := fmt.Sprint(changes.Changes)
	streaming, _, rest := p.ask(guestapi.Request{Op: guestapi.OpChanges, Stream: true})
	if lines := bytes.Count(p.data(rest), []byte("\n")); !streaming.Streaming || streaming.Changes != nil || lines != len(changes.Changes) {
		p.t.Errorf("%s: streamed: %+v and %d lines, want %d", when, streaming, lines, len(changes.Changes))
	}
	for _, want := range []string{"{/etc/gone 2}", "{/etc/new 1}", "{/old/back 1}", "{/old/sub 2}", "{/etc 0}"} {
		if !strings.Contains(got, want) {
			p.t.Errorf("%s: no %s in %s", when, want, got)
		}
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpGet, Path: "/nowhere"})
	wantKind(p.t, err, guestapi.KindNotFound)
}

// wantTar checks names and contents; a linked file has its first name's.
func (p *place) wantTar(data []byte, want map[string]string, not []string) {
	p.t.Helper()
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			p.t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[h.Name] = string(text)
		if h.Typeflag == tar.TypeLink {
			got[h.Name] = got[h.Linkname]
		}
	}
	for name, text := range want {
		if have, ok := got[name]; !ok || have != text {
			p.t.Errorf("%s: %q (%v), want %q", name, have, ok, text)
		}
	}
	for _, name := range not {
		if _, ok := got[name]; ok {
			p.t.Errorf("%s should not be there", name)
		}
	}
}

// TestHelper: a guest without a process shows a stopped instance's files.
func TestHelper(t *testing.T) {
	p := newPlace(t)
	layer := drivertest.Layer(t)
	at := guestapi.LayersDir + "/0"
	if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(layer, at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	p.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x",
		Mounts: []guestapi.Mount{{Type: "tmpfs", Target: guestapi.WritableAt, Dirs: []string{"upper", "work"}}},
		Files:  []guestapi.File{{Path: guestapi.UpperDir + "/etc/new", Data: []byte("n")}},
		Root:   &guestapi.Overlay{Lower: []string{at}, Upper: guestapi.UpperDir, Work: guestapi.WorkDir}}})
	_, _, r := p.ask(guestapi.Request{Op: guestapi.OpGet, Path: "/etc/passwd"})
	if len(p.data(r)) == 0 {
		t.Error("no file")
	}
	changes, _, _ := p.ask(guestapi.Request{Op: guestapi.OpChanges})
	if got := fmt.Sprint(changes.Changes); got != "[{/etc 0} {/etc/new 1}]" {
		t.Errorf("changes %s", got)
	}
	p.ask(guestapi.Request{Op: guestapi.OpPowerOff})
	select {
	case <-p.m.off:
	case <-time.After(time.Minute):
		t.Error("no power off")
	}
}
