package dockerapi

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlines is an answer's writer that knows until when the body may be read.
type deadlines struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.until = t; return nil }

// stalled is a body that looks how long it may take.
type stalled struct {
	d    *deadlines
	seen time.Duration
}

func (s *stalled) Read([]byte) (int, error) {
	s.seen = time.Until(s.d.until)
	return 0, io.ErrUnexpectedEOF
}

// A client that stops in the middle of a request is not waited for: neither in
// the body, nor in the header.
func TestStalledBody(t *testing.T) {
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	body := &stalled{d: d}
	r := httptest.NewRequest(http.MethodPost, "/containers/create", body)
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = 100
	New(Options{Log: quiet(), Containers: &fakeContainers{}}).ServeHTTP(d, r)
	if body.seen <= 0 || body.seen > time.Minute {
		t.Errorf("the body may take %s", body.seen)
	}
	if d.Code != http.StatusBadRequest || !d.until.IsZero() {
		t.Errorf("status %d, the connection's time limit stays: %s", d.Code, d.until)
	}
	if s := NewServer(nil); s.ReadHeaderTimeout <= 0 || s.ReadHeaderTimeout > time.Minute || s.IdleTimeout <= 0 {
		t.Errorf("header %s, idle %s", s.ReadHeaderTimeout, s.IdleTimeout)
	}
}

// A header has a bound, too.
func TestHugeHeader(t *testing.T) {
	conn, err := net.Dial("unix", listen(t, New(Options{Log: quiet()})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.WriteString(conn, "GET /_ping HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: "+strings.Repeat("x", 700<<10)+"\r\n\r\n")
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}
