package guest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

func TestBootOnce(t *testing.T) {
	p := newPlace(t).boot()
	if p.m.time == 0 || p.m.entropy != 64 {
		t.Errorf("machine %+v", p.m)
	}
	var u unix.Utsname
	_ = unix.Uname(&u)
	if got := unix.ByteSliceToString(u.Nodename[:]); got != "box" {
		t.Errorf("host name %q", got)
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "y"}})
	wantKind(t, err, guestapi.KindConflict)
}

func wantKind(t *testing.T, err error, kind string) {
	t.Helper()
	var f *guestapi.Failed
	if !errors.As(err, &f) || f.Kind != kind {
		t.Errorf("error %v, want one of kind %s", err, kind)
	}
}

// What needs a boot is refused before, what is not known always.
func TestRefusals(t *testing.T) {
	p := newPlace(t)
	for op := range handlers {
		if beforeBoot[op] {
			continue
		}
		_, _, _, err := p.try(guestapi.Request{Op: op})
		wantKind(t, err, guestapi.KindUnavailable)
	}
	_, _, _, err := p.try(guestapi.Request{Op: "dance"})
	wantKind(t, err, guestapi.KindUnimplemented)
	p.boot()
	for _, q := range []guestapi.Request{
		{Op: guestapi.OpStart}, {Op: guestapi.OpExec}, {Op: guestapi.OpSignal}, {Op: guestapi.OpResize}, {Op: guestapi.OpUpdate},
		{Op: guestapi.OpLink}, {Op: guestapi.OpUnlink}, {Op: guestapi.OpMount}, {Op: guestapi.OpUnmount, Path: "/etc"},
		{Op: guestapi.OpFile, File: &guestapi.File{Path: "/etc/passwd"}}, {Op: guestapi.OpFile, File: &guestapi.File{Path: guestapi.RunDir + "/../../etc/x"}},
		{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "nfs", Tag: "x", Target: guestapi.RunDir + "/x"}},
		{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "tmpfs", Target: "/etc"}},
		{Op: guestapi.OpLink, Interface: &guestapi.Interface{MAC: "nonsense"}}, {Op: guestapi.OpPut}, {Op: guestapi.OpFreshen},
	} {
		_, _, _, err := p.try(q)
		wantKind(t, err, guestapi.KindInvalid)
	}
	_, _, _, err = p.try(guestapi.Request{Op: guestapi.OpSignal, Signal: 9})
	wantKind(t, err, guestapi.KindNotFound)
	_, _, _, err = p.try(guestapi.Request{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "ext4", Disk: "no", Target: guestapi.VolumesDir + "/0"}})
	wantKind(t, err, guestapi.KindNotFound)
}

// TestSessions: garbage, a lost session and a Hello in the middle of one end
// the session and nothing else.
func TestSessions(t *testing.T) {
	p := newPlace(t).boot()
	b, _, _ := p.run("sh", "-c", "while :; do echo tick; sleep 0.05; done")
	for name, mess := range map[string]func(){
		"garbage":    func() { _, _ = p.conn.Write(bytes.Repeat([]byte("garbage\n"), 5000)) },
		"a hello":    func() {},
		"half frame": func() { _, _ = p.conn.Write([]byte{0, 0, 0, 1, 0, 0}) },
		"noise": func() {
			noise := make([]byte, 100_000)
			_, _ = rand.Read(noise)
			_, _ = p.conn.Write(noise)
		},
		"nonsense in a stream": func() {
			for _, junk := range []string{"", "x", "{}", "\x14\x00\x00\x00\x00\x00\x00\x02{]", "\x14\x00\x00\x00\xff\xff\xff\xff", "\x14\x01\x00\x00\x00\x00\x00\x00"} {
				s, err := p.session.Open()
				if err != nil {
					p.t.Fatal(err)
				}
				_, _ = io.WriteString(s, junk)
				_ = s.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			mess()
			p.again()
			if out, _, e := p.exec(b, "echo", "alive"); out != "alive\n" || e.Code != 0 {
				t.Errorf("%q %+v", out, e)
			}
		})
	}
}

// again greets over the connection of a session that is left as it is.
func (p *place) again() {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now()) // its reader would take the answer
	<-p.session.CloseChan()
	time.Sleep(10 * time.Millisecond)
	p.greet(p.conn)
}

// detached is a connection that sessions do not close.
type detached struct{ net.Conn }

func (d *detached) Close() error { return nil }
