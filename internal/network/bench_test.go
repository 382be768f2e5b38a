package network

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// emptyNetns makes a namespace that lives as long as the file is open.
func emptyNetns(t testing.TB) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.f
}

// BenchmarkAttach is a container that comes and goes: on the default bridge,
// on a network with names (a table more), with a published port, and as a
// virtual machine.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct {
		name, net string
		port, tap bool
	}{{"bridge", "bridge", false, false}, {"names", "app", false, false}, {"published", "bridge", true, false}, {"tap", "bridge", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			r := open(b, Options{})
			create(b, r, network.CreateRequest{Name: "app"})
			for b.Loop() {
				b.StopTimer()
				f := emptyNetns(b)
				q := model.AttachNetworks{
					ID: model.NewID(), Netns: "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), Tap: c.tap,
					Want: map[string]*network.EndpointSettings{c.net: {}},
				}
				if c.port {
					q.Ports = portMapOf(b, ":0:80/tcp")
				}
				b.StartTimer()
				if _, err := r.Attach(context.Background(), q); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := r.Detach(context.Background(), q.ID); err != nil {
					b.Fatal(err)
				}
				f.Close()
				b.StartTimer()
			}
		})
	}
}
