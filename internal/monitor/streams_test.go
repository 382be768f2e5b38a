package monitor

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"wharf/api/monitorapi"
)

// slowSink takes its time, as on a machine that does not let us run.
type slowSink struct {
	mu    sync.Mutex
	got   strings.Builder
	begun chan struct{} // closed by the first write
	once  sync.Once
	time  time.Duration
}

func (s *slowSink) write(_ monitorapi.Type, p []byte) {
	s.once.Do(func() { close(s.begun); time.Sleep(s.time) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got.Write(p)
}
func (s *slowSink) end(monitorapi.Type) {}

func (s *slowSink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

// What a process has written before its end is not lost because passing it on
// takes longer than is waited for descendants: neither where nobody holds the
// stream, nor where somebody does, and is not waited for then.
func TestRestIsPassedOn(t *testing.T) {
	for _, held := range []bool{false, true} {
		sink := &slowSink{begun: make(chan struct{}), time: drainTime + time.Second}
		s := newStreams(0, sink)
		f, err := s.pipes(false, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.run()
		write := func(text string) {
			t.Helper()
			if _, err := f.Stdout.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		write("first ")
		<-sink.begun
		write(strings.Repeat("x", 50<<10) + " last")
		var copies []*os.File
		for _, x := range []*os.File{f.Stdout, f.Stderr} {
			if held {
				copies = append(copies, x)
			} else {
				_ = x.Close()
			}
		}
		s.finish()
		if got := sink.text(); !strings.HasPrefix(got, "first x") || !strings.HasSuffix(got, "x last") {
			t.Errorf("held open %t: passed on %d bytes: %.20q", held, len(got), got)
		}
		if held { // and it is read on, to nowhere that anybody waits for
			write("later")
			for _, x := range copies {
				_ = x.Close()
			}
		}
		s.pumps.Wait()
		if got := sink.text(); held && !strings.HasSuffix(got, "last"+"later") {
			t.Errorf("not read on: %q", got[len(got)-20:])
		}
	}
}
