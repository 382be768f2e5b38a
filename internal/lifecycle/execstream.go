package lifecycle

import (
	"io"
	"sync"
	"time"

	"wharf/internal/model"
)

// execStream is an exec's stream as its client sees it: only what was asked
// for, and ended only when the exit code is known.
type execStream struct {
	model.Stream
	req   model.ExecRequest
	ended <-chan struct{}
	once  sync.Once
	left  chan struct{} // closed by Close or cut
}

func newExecStream(s model.Stream, r model.ExecRequest, ended <-chan struct{}) *execStream {
	x := &execStream{Stream: s, req: r, ended: ended, left: make(chan struct{})}
	go x.cut()
	return x
}

// cut closes the stream some time after the process's end, when a child in
// the background still holds its output.
func (x *execStream) cut() {
	select {
	case <-x.ended:
	case <-x.left:
		return
	}
	select {
	case <-time.After(streamPatience):
		_ = x.Close()
	case <-x.left:
	}
}

func (x *execStream) Next() (model.StreamKind, []byte, error) {
	for {
		kind, p, err := x.Stream.Next()
		if err != nil {
			select {
			case <-x.ended:
			case <-x.left:
			}
			return 0, nil, io.EOF
		}
		if x.req.Tty || kind == model.Stdout && x.req.AttachStdout || kind == model.Stderr && x.req.AttachStderr {
			return kind, p, nil
		}
	}
}

// Write passes input on if the client asked for it at create.
func (x *execStream) Write(p []byte) (int, error) {
	if !x.req.AttachStdin {
		return len(p), nil
	}
	return x.Stream.Write(p)
}

// Close ends the client's part; the process goes on, its output is drained by
// whoever holds it.
func (x *execStream) Close() (err error) {
	x.once.Do(func() {
		close(x.left)
		err = x.Stream.Close()
	})
	return err
}
