package build

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
)

// uploadHost stands in the URL of a context that is the body of a request.
// No name server knows it: it never leaves this process.
const uploadHost = "wharf-upload"

// uploadPatience is how long the two sides of an upload wait for each other.
const uploadPatience = 10 * time.Second

// uploads brings bodies of requests to BuildKit, which fetches each by a URL.
// It is the round tripper of BuildKit's http sources; all other hosts go to
// next.
type uploads struct {
	next http.RoundTripper

	mu    sync.Mutex
	slots map[string]*slot
}

// slot is where the one who has a body and the one who wants it meet.
type slot struct {
	bodies chan *upload
	users  int
}

// upload is a body under way; over is closed when nobody reads it any more.
type upload struct {
	io.Reader
	once sync.Once
	over chan struct{}
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil {
		_ = u.Close()
	}
	return n, err
}

func (u *upload) Close() error {
	u.once.Do(func() { close(u.over) })
	return nil
}

func (u *uploads) enter(id string) (s *slot, leave func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.slots == nil {
		u.slots = map[string]*slot{}
	}
	if u.slots[id] == nil {
		u.slots[id] = &slot{bodies: make(chan *upload)}
	}
	s = u.slots[id]
	s.users++
	return s, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(u.slots, id)
		}
	}
}

// offer hands body to whoever asks for id and returns when it was read, or
// when patience (0: as long as ctx) is over before anybody asks.
func (u *uploads) offer(ctx context.Context, id string, body io.Reader, patience time.Duration) error {
	s, leave := u.enter(id)
	defer leave()
	up := &upload{Reader: body, over: make(chan struct{})}
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	select {
	case s.bodies <- up:
	case <-late:
		return cerrdefs.ErrNotFound.WithMessage(fmt.Sprintf("no build waits for the upload %q", id))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-up.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// RoundTrip implements http.RoundTripper.
func (u *uploads) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != uploadHost {
		return u.next.RoundTrip(req)
	}
	id := strings.TrimPrefix(req.URL.Path, "/")
	s, leave := u.enter(id)
	defer leave()
	late := time.NewTimer(uploadPatience)
	defer late.Stop()
	select {
	case up := <-s.bodies:
		return &http.Response{
			Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: up, ContentLength: -1, Request: req,
		}, nil
	case <-late.C:
		return nil, fmt.Errorf("the client did not send the context (upload %q) within %s", id, uploadPatience)
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

// uploadURL is where BuildKit finds the upload id.
func uploadURL(id string) string { return "http://" + uploadHost + "/" + id }
