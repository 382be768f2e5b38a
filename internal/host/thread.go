package host

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onOwnThread runs fn on an operating system thread that ends afterwards, so
// that fn may change the thread's namespaces. It is never the process's first
// thread: Go cannot end that one, and /proc/self would show its namespaces.
func onOwnThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return // locked still: the thread ends with the goroutine
		}
		// This goroutine keeps the first thread busy while another, on
		// another thread, does the work.
		defer runtime.UnlockOSThread()
		inner := make(chan struct{})
		go func() {
			defer close(inner)
			runtime.LockOSThread()
			fn()
		}()
		<-inner
	}()
	<-done
}
