package image

import (
	"sync"
	"testing"
)

// Those who wait at the same time share one syncfs: twenty callers at once
// must not make twenty.
func TestSyncIsShared(t *testing.T) {
	var y syncer
	dir := t.TempDir()
	var wg sync.WaitGroup
	start := make(chan struct{})
	const callers = 20
	for range callers {
		wg.Go(func() {
			<-start
			if err := y.sync(dir); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.calls == 0 || y.calls > callers {
		t.Errorf("%d calls for %d callers", y.calls, callers)
	}
	t.Logf("%d callers, %d syncfs", callers, y.calls)
}

func TestSyncSaysWhatFailed(t *testing.T) {
	var y syncer
	if err := y.sync("/does/not/exist"); err == nil {
		t.Error("no error")
	}
}
