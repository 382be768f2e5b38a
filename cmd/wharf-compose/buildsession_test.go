package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/moby/buildkit/session"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// A session whose messages go by gRPC's own server: it answers, its headers
// name its methods, and it ends with the session.
func TestQuickSession(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	here, there := net.Pipe()
	var told map[string][]string
	q := &quickSession{dial: func(_ context.Context, _ string, meta map[string][]string) (net.Conn, error) {
		told = meta
		return here, nil
	}}
	s, err := session.NewSession(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	s.Allow(q)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, q.Dial) }()
	engine, err := grpc.NewClient("passthrough:engine", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return there, nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close() //nolint:errcheck // the session has ended
	res, err := grpc_health_v1.NewHealthClient(engine).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", res, err)
	}
	if id := told["X-Docker-Expose-Session-Uuid"]; len(id) != 1 || id[0] != s.ID() {
		t.Errorf("id %q, want %s", id, s.ID())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("the session goes on after Close")
	}
}
