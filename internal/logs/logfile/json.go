package logfile

import (
	"os"
	"time"
	"unicode/utf8"

	"wharf/internal/lean"
)

// jsonFile is Docker's json-file.
type jsonFile struct {
	*file
	attrs []byte // `"attrs":{...},` or nothing
}

func openJSON(p Plan, lose loser) (sink, error) {
	j := jsonFile{}
	if len(p.Attrs) > 0 {
		b, err := lean.Marshal(p.Attrs)
		if err != nil {
			return nil, err
		}
		j.attrs = append(append([]byte(`"attrs":`), b...), ',')
	}
	var err error
	j.file, err = openFile(p, nil, lose, wholeJSON)
	return j, err
}

// wholeJSON finds the end of the last whole line.
func wholeJSON(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 4<<10)
	for end := size; end > 0; {
		n := min(int64(len(buf)), end)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return size, err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return end - n + i + 1, nil
			}
		}
		end -= n
	}
	return 0, nil
}

func (j jsonFile) add(e entry) {
	j.begin()
	b := append(j.buf, `{"log":"`...)
	b = appendEscaped(b, e.line)
	if !e.partial {
		b = append(b, `\n`...)
	}
	if e.stream == Stderr {
		b = append(b, `","stream":"stderr",`...)
	} else {
		b = append(b, `","stream":"stdout",`...)
	}
	b = append(b, j.attrs...)
	b = append(b, `"time":"`...)
	b = e.at.UTC().AppendFormat(b, time.RFC3339Nano)
	j.buf = append(b, "\"}\n"...)
	j.end(e)
}

const hex = "0123456789abcdef"

// appendEscaped appends s as the inside of a JSON string, as encoding/json
// would: <, > and & too, so that the text is safe inside HTML.
func appendEscaped(b, s []byte) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[from:i]...), `\ufffd`...)
			i++
			from = i
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[from:i]...), '\\', 'u', '2', '0', '2', hex[r&15])
			i += n
			from = i
		default:
			i += n
		}
	}
	return append(b, s[from:]...)
}
