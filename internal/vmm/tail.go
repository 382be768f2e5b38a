package vmm

import (
	"io"
	"strings"
	"sync"
)

// tailSize is how much of a console is kept: about two screens.
const tailSize = 4 << 10

// tail keeps the end of what was written to it, however much that is.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// follow reads r to its end.
func (t *tail) follow(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		t.add(buf[:n])
		if err != nil {
			return
		}
	}
}

func (t *tail) add(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > tailSize {
		p = p[len(p)-tailSize:]
	}
	if n := len(t.buf) + len(p) - tailSize; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	t.buf = append(t.buf, p...)
}

// last are the last lines, with nothing in them that a terminal would act on.
func (t *tail) last(lines int) string {
	t.mu.Lock()
	text := string(t.buf)
	t.mu.Unlock()
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r != 0x7f && r < 0x80 {
			return r
		}
		return -1
	}, text)
	all := strings.Split(strings.TrimSpace(clean), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
