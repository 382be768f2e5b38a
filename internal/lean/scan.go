package lean

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// digits passes a number: -? int frac? exp? of RFC 8259.
func (d *decoder) digits() error {
	run := func() bool {
		from := d.at
		for d.at < len(d.data) && d.data[d.at] >= '0' && d.data[d.at] <= '9' {
			d.at++
		}
		return d.at > from
	}
	_ = d.word("-")
	if !d.word("0") && !run() {
		return d.syntax("a value")
	}
	if d.word(".") && !run() {
		return d.syntax("a digit")
	}
	if d.word("e") || d.word("E") {
		_ = d.word("+") || d.word("-")
		if !run() {
			return d.syntax("a digit")
		}
	}
	return nil
}

// skip passes one value of any kind.
func (d *decoder) skip(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: nested too deep", ErrSyntax)
	}
	switch c := d.peek(); c {
	case '"':
		_, err := d.str()
		return err
	case 't', 'f', 'n':
		if d.word("true") || d.word("false") || d.word("null") {
			return nil
		}
		return d.syntax("a value")
	case '{', '[':
		return d.skipMany(c == '{', depth)
	}
	return d.digits()
}

func (d *decoder) skipMany(object bool, depth int) error {
	end := byte(']')
	if object {
		end = '}'
	}
	d.at++
	if d.eat(end) {
		return nil
	}
	for {
		if object {
			if d.peek() != '"' {
				return d.syntax("a key")
			}
			if _, err := d.str(); err != nil {
				return err
			}
			if !d.eat(':') {
				return d.syntax("a colon")
			}
		}
		if err := d.skip(depth + 1); err != nil {
			return err
		}
		if d.eat(end) {
			return nil
		}
		if !d.eat(',') {
			return d.syntax("a comma")
		}
	}
}

// str decodes the string whose quote comes next. The result is valid until
// data is changed.
func (d *decoder) str() ([]byte, error) {
	d.at++
	from := d.at
	for d.at < len(d.data) {
		c := d.data[d.at]
		if c == '"' {
			s := d.data[from:d.at]
			d.at++
			if !utf8.Valid(s) {
				s = []byte(string([]rune(string(s)))) // each bad byte becomes U+FFFD
			}
			return s, nil
		}
		if c == '\\' {
			return d.escaped(from)
		}
		if c < ' ' {
			break
		}
		d.at++
	}
	return nil, d.syntax("the end of a string")
}

// escaped is str from the first backslash on.
func (d *decoder) escaped(from int) ([]byte, error) {
	out := append([]byte(nil), d.data[from:d.at]...)
	for d.at < len(d.data) {
		c := d.data[d.at]
		switch {
		case c == '"':
			d.at++
			if !utf8.Valid(out) {
				out = []byte(string([]rune(string(out))))
			}
			return out, nil
		case c == '\\':
			d.at++
			r, ok := d.escape()
			if !ok {
				return nil, d.syntax("an escape")
			}
			out = utf8.AppendRune(out, r)
			continue
		case c < ' ':
			return nil, d.syntax("the end of a string")
		}
		out = append(out, c)
		d.at++
	}
	return nil, d.syntax("the end of a string")
}

// escape decodes what follows a backslash.
func (d *decoder) escape() (rune, bool) {
	if d.at >= len(d.data) {
		return 0, false
	}
	c := d.data[d.at]
	d.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		r, ok := d.hex()
		if ok && utf16.IsSurrogate(r) {
			at := d.at
			if d.word(`\u`) {
				if low, ok := d.hex(); ok {
					if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
						return both, true
					}
				}
			}
			d.at, r = at, utf8.RuneError
		}
		return r, ok
	}
	return 0, false
}

func (d *decoder) hex() (rune, bool) {
	if len(d.data)-d.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(d.data[d.at:d.at+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	d.at += 4
	return rune(n), true
}
