package build

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
)

func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	}
}

// GRPC serves BuildKit's own API on a connection that was upgraded to HTTP/2,
// until it is closed.
func (r *Room) GRPC(conn net.Conn) error {
	r.busy.Add(1)
	defer r.busy.Add(-1)
	k, err := r.up()
	if err != nil {
		_ = conn.Close()
		return err
	}
	c := &watched{Conn: conn, closed: make(chan struct{})}
	if err := k.pipe.give(c); err != nil {
		_ = conn.Close()
		return err
	}
	<-c.closed
	return nil
}

// watched tells when a connection was closed.
type watched struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (w *watched) Close() error {
	err := w.Conn.Close()
	w.once.Do(func() { close(w.closed) })
	return err
}

// Session attaches a client's session (files, secrets, credentials) by a
// connection that was upgraded to HTTP/2, until the client leaves. header is
// the request's.
func (r *Room) Session(ctx context.Context, conn net.Conn, header http.Header) error {
	r.busy.Add(1)
	defer r.busy.Add(-1)
	k, err := r.up()
	if err != nil {
		_ = conn.Close()
		return err
	}
	return k.sessions.HandleConn(ctx, conn, header)
}
