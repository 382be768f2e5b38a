package vmm

import (
	"io"
	"slices"
	"strings"
	"sync"

	"wharf/api/frame"
)

// tailSize is how much of a console is kept: what a kernel says when it dies.
const tailSize = 8 << 10

// panicked begins the line in which a kernel gives up.
const panicked = "Kernel panic - not syncing: "

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

// panic is why the guest's kernel gave up, "" when it has not said that it did.
func (t *tail) panic() string {
	text := t.last(tailSize)
	_, why, found := strings.Cut(text, panicked)
	if !found {
		return ""
	}
	why, _, _ = strings.Cut(why, "\n")
	return frame.Printable(strings.TrimSpace(why), 200)
}

// without are the lines that have nothing of word in them.
func without(text, word string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, word) }), "\n")
}
