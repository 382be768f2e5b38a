package dockerapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"wharf/internal/model"
)

// fakeContainers answers what a test sets; anything else panics, which the
// door turns into a 500.
type fakeContainers struct {
	Containers
	create      func(model.CreateRequest) (container.CreateResponse, error)
	list        func(model.ListRequest) ([]container.Summary, error)
	inspect     func(ref string) (*container.InspectResponse, error)
	start       func(ref string) error
	wait        func(ctx context.Context, ref string, c container.WaitCondition) (<-chan model.WaitResult, error)
	attach      func(ref string, r model.AttachRequest) (model.Stream, bool, error)
	logs        func(ctx context.Context, r model.LogsRequest) (model.LogReader, bool, error)
	stats       func(ctx context.Context, stream bool, yield func(*container.StatsResponse) bool) error
	execStart   func(id string, detach bool) (model.Stream, error)
	execInspect func(id string) (*container.ExecInspectResponse, error)
	archivePut  func(path string, o model.PutOptions, tar io.Reader) error
	archiveGet  func(path string) (io.ReadCloser, container.PathStat, error)
	usage       *container.DiskUsage
}

func (f *fakeContainers) Create(_ context.Context, r model.CreateRequest) (container.CreateResponse, error) {
	return f.create(r)
}
func (f *fakeContainers) List(_ context.Context, r model.ListRequest) ([]container.Summary, error) {
	return f.list(r)
}
func (f *fakeContainers) Inspect(_ context.Context, ref string, _ bool) (*container.InspectResponse, error) {
	return f.inspect(ref)
}
func (f *fakeContainers) Start(_ context.Context, ref string) error { return f.start(ref) }
func (f *fakeContainers) Wait(ctx context.Context, ref string, c container.WaitCondition) (<-chan model.WaitResult, error) {
	return f.wait(ctx, ref, c)
}
func (f *fakeContainers) Attach(_ context.Context, ref string, r model.AttachRequest) (model.Stream, bool, error) {
	return f.attach(ref, r)
}
func (f *fakeContainers) Logs(ctx context.Context, _ string, r model.LogsRequest) (model.LogReader, bool, error) {
	return f.logs(ctx, r)
}
func (f *fakeContainers) Stats(ctx context.Context, _ string, stream, _ bool, yield func(*container.StatsResponse) bool) error {
	return f.stats(ctx, stream, yield)
}
func (f *fakeContainers) ExecStart(_ context.Context, id string, detach bool, _ *[2]uint) (model.Stream, error) {
	return f.execStart(id, detach)
}
func (f *fakeContainers) ExecInspect(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	return f.execInspect(id)
}
func (f *fakeContainers) ArchivePut(_ context.Context, _, path string, o model.PutOptions, tar io.Reader) error {
	return f.archivePut(path, o, tar)
}
func (f *fakeContainers) ArchiveGet(_ context.Context, _, path string) (io.ReadCloser, container.PathStat, error) {
	return f.archiveGet(path)
}
func (f *fakeContainers) DiskUsage(context.Context, bool) (*container.DiskUsage, error) {
	return f.usage, nil
}

type chunk struct {
	kind model.StreamKind
	data string
}

// fakeStream is a process's end of an attachment.
type fakeStream struct {
	out    chan chunk // closed: the process ended
	in     chan string
	eof    chan struct{} // stdin was closed by the client
	closed chan struct{}
	once   sync.Once
	eofer  sync.Once
}

func newFakeStream() *fakeStream {
	return &fakeStream{out: make(chan chunk), in: make(chan string), eof: make(chan struct{}), closed: make(chan struct{})}
}

func (s *fakeStream) Next() (model.StreamKind, []byte, error) {
	select {
	case c, ok := <-s.out:
		if !ok {
			return 0, nil, io.EOF
		}
		return c.kind, []byte(c.data), nil
	case <-s.closed:
		return 0, nil, net.ErrClosed
	}
}

func (s *fakeStream) Write(p []byte) (int, error) {
	select {
	case s.in <- string(p):
		return len(p), nil
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

func (s *fakeStream) CloseWrite() error       { s.eofer.Do(func() { close(s.eof) }); return nil }
func (s *fakeStream) Resize(uint, uint) error { return nil }
func (s *fakeStream) Close() error            { s.once.Do(func() { close(s.closed) }); return nil }
func (s *fakeStream) cat() {
	for {
		select {
		case p := <-s.in:
			select {
			case s.out <- chunk{model.Stdout, p}:
			case <-s.closed:
				return
			}
		case <-s.eof:
			close(s.out)
			return
		case <-s.closed:
			return
		}
	}
}

// listen serves h on a unix socket for the test's length and returns its path.
func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h)
	srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return path
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newClient(t *testing.T, path string, opts ...client.Opt) *client.Client {
	t.Helper()
	c, err := client.New(append([]client.Opt{client.WithHost("unix://" + path)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// noLeak fails the test when goroutines of this package are left.
func noLeak(t *testing.T) {
	t.Helper()
	var stacks string
	for range 1000 {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "dockerapi.(*session)") && !strings.Contains(stacks, "dockerapi.(*pump)") &&
			!strings.Contains(stacks, "dockerapi.(*server)") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("goroutines are left:\n%s", stacks)
}

func waitFor(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatalf("%s: did not happen", what)
	}
}

var errTest = errors.New("test")
