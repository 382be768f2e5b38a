package dockerapi

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"wharf/internal/model"
)

// Half-close and the end work over TCP with TLS too.
func TestAttachTLS(t *testing.T) {
	s := newFakeStream()
	go s.cat()
	srv := httptest.NewTLSServer(New(Options{Log: quiet(), Containers: &fakeContainers{
		attach: func(string, model.AttachRequest) (model.Stream, bool, error) { return s, true, nil },
	}}))
	defer srv.Close()
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST /containers/x/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	br := bufio.NewReader(conn)
	if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 101 UPGRADED") {
		t.Fatalf("%q, %v", line, err)
	}
	for line := ""; line != "\r\n"; {
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = io.WriteString(conn, "over tls")
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(br); err != nil || string(got) != "over tls" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = conn.Close()
	noLeak(t)
}
