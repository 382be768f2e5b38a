package dockerapi

import (
	"errors"
	"strings"
)

// errDetached says that a client typed the detach sequence.
var errDetached = errors.New("detached")

// defaultDetach is ctrl-p, ctrl-q.
var defaultDetach = []byte{16, 17}

// parseDetach reads detach keys, a comma list of one letter or ctrl-<one of
// a-z @ [ \ ] ^ _>. "" is the default.
func parseDetach(text string) ([]byte, error) {
	if text == "" {
		return defaultDetach, nil
	}
	var keys []byte
	for _, word := range strings.Split(text, ",") {
		ctrl, isCtrl := strings.CutPrefix(word, "ctrl-")
		switch {
		case len(word) == 1:
			keys = append(keys, word[0])
		case isCtrl && len(ctrl) == 1 && ctrl[0] >= 'a' && ctrl[0] <= 'z':
			keys = append(keys, ctrl[0]-'a'+1)
		case isCtrl && len(ctrl) == 1 && strings.ContainsAny(ctrl, `@[\]^_`):
			keys = append(keys, ctrl[0]-'@')
		default:
			return nil, invalid("Invalid detach keys %q: %q is neither one character nor ctrl- and one of a-z @ [ \\ ] ^ _", text, word)
		}
	}
	return keys, nil
}

// detacher finds the detach sequence in typed input. Keys that may begin it
// are held back until it is clear that they do not.
type detacher struct {
	keys []byte
	seen int // how many keys have matched so far
}

// feed returns the part of p that goes to the process, and errDetached when
// the sequence is complete.
func (d *detacher) feed(p []byte) ([]byte, error) {
	if len(d.keys) == 0 {
		return p, nil
	}
	out := make([]byte, 0, len(p)+d.seen)
	for _, b := range p {
		for d.seen > 0 && b != d.keys[d.seen] {
			// What was held back was only typing; a shorter part of it may
			// still begin the sequence.
			held := d.keys[:d.seen]
			d.seen = overlap(held, d.keys)
			out = append(out, held[:len(held)-d.seen]...)
		}
		if b != d.keys[d.seen] {
			out = append(out, b)
			continue
		}
		if d.seen++; d.seen == len(d.keys) {
			return out, errDetached
		}
	}
	return out, nil
}

// overlap is the length of the longest proper end of held that begins keys.
func overlap(held, keys []byte) int {
	for n := len(held) - 1; n > 0; n-- {
		if string(held[len(held)-n:]) == string(keys[:n]) {
			return n
		}
	}
	return 0
}
