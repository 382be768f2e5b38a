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

func BenchmarkAttach(b *testing.B) {
	r := open(b, Options{})
	for b.Loop() {
		b.StopTimer()
		f := emptyNetns(b)
		box := &box{t: b, id: model.NewID()}
		q := model.AttachNetworks{ID: box.id, Netns: "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), Want: map[string]*network.EndpointSettings{"bridge": {}}}
		b.StartTimer()
		if _, err := r.Attach(context.Background(), q); err != nil {
			b.Fatal(err)
		}
		if err := r.Detach(context.Background(), q.ID); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		f.Close()
		b.StartTimer()
	}
}
