package vmm

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
)

// talksTo is a machine whose guest is answer: called with each stream, after
// its request was read.
func talksTo(t *testing.T, answer func(net.Conn, guestapi.Request)) *machine {
	t.Helper()
	a, b := net.Pipe()
	client, err := yamux.Client(newGuard(a), session())
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(b, session())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	go func() {
		for {
			s, err := server.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				var q guestapi.Request
				if (&guestapi.Reader{R: s}).Expect(guestapi.RequestFrame, &q) == nil {
					answer(s, q)
				}
			}()
		}
	}()
	return &machine{session: client, down: make(chan struct{})}
}

// Whatever a guest answers, it is an error or a reply within its bound, in the
// time that was given, and the next request is answered again.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(net.Conn)
		kind   string // of a Failed
		frame  bool
	}{
		"never answers": {func(net.Conn) {}, monitorapi.KindUnavailable, false},
		"answers late": {func(s net.Conn) {
			time.Sleep(600 * time.Millisecond)
			_ = guestapi.WriteJSON(s, guestapi.ReplyFrame, guestapi.Reply{})
		}, monitorapi.KindUnavailable, false},
		"megabytes":      {func(s net.Conn) { _ = guestapi.Write(s, guestapi.ReplyFrame, bytes.Repeat([]byte(" "), 1<<20)) }, "", true},
		"a length alone": {func(s net.Conn) { _, _ = s.Write([]byte{byte(guestapi.ReplyFrame), 0, 0, 0, 0, 0xff, 0, 0}) }, "", true},
		"no JSON":        {func(s net.Conn) { _ = guestapi.Write(s, guestapi.ReplyFrame, []byte("{")) }, "", true},
		"depths":         {func(s net.Conn) { _ = guestapi.Write(s, guestapi.ReplyFrame, bytes.Repeat([]byte(`{"state":`), 5000)) }, "", true},
		"another frame":  {func(s net.Conn) { _ = guestapi.Write(s, guestapi.Stdout, []byte("hi")) }, "", true},
		"a flood of an error": {func(s net.Conn) {
			_ = guestapi.WriteJSON(s, guestapi.Error, guestapi.Failed{Kind: "\x1b[31m", Text: strings.Repeat("long \x1b[2J", 3000)})
		}, monitorapi.KindInternal, false},
	} {
		t.Run(name, func(t *testing.T) {
			hostile := true
			m := talksTo(t, func(s net.Conn, _ guestapi.Request) {
				if hostile {
					hostile = false
					c.answer(s)
					return
				}
				_ = guestapi.WriteJSON(s, guestapi.ReplyFrame, guestapi.Reply{Pid: 7})
			})
			limit := time.Minute
			if name == "never answers" || name == "answers late" {
				limit = 300 * time.Millisecond
			}
			began := time.Now()
			_, err := m.ask(limit, guestapi.Request{Op: guestapi.OpState})
			var f *monitorapi.Failed
			if took := time.Since(began); err == nil || took > time.Minute {
				t.Fatalf("%v after %v", err, took)
			}
			if c.frame != errors.Is(err, guestapi.ErrFrame) || errors.As(err, &f) && f.Kind != c.kind || f == nil && c.kind != "" {
				t.Errorf("%T %.200v", err, err)
			}
			if len(err.Error()) > 5000 || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			if r, err := m.ask(time.Minute, guestapi.Request{Op: guestapi.OpState}); err != nil || r.Pid != 7 {
				t.Errorf("the next one: %+v %v", r, err)
			}
		})
	}
}
