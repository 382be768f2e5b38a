package logfile

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"time"

	"wharf/internal/lean"
)

// Parts of a local record; see the package comment.
const (
	kindPartial byte = 4
	kindAttrs   byte = 16

	recordFrame = 12      // bytes around a body
	recordMax   = 1 << 20 // of a body
)

// sum is the checksum of a body. The table is made at first use: other
// drivers do not pay for it at the monitor's start.
func sum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// Errors of DecodeRecord.
var (
	ErrShort = errors.New("record goes on behind the end") // perhaps still being written
	ErrTorn  = errors.New("not a record")
)

// Record is a decoded local record.
type Record struct {
	Time    time.Time
	Stream  byte
	Partial bool
	Line    []byte            // aliases the input
	Attrs   map[string]string // of an attributes record, which has nothing else
}

// AppendRecord appends the local record of an output line.
func AppendRecord(b []byte, at time.Time, stream byte, partial bool, line []byte) []byte {
	kind := stream
	if partial {
		kind |= kindPartial
	}
	b = binary.BigEndian.AppendUint32(b, uint32(9+len(line)))
	body := len(b)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = append(b, line...)
	return closeRecord(b, body)
}

// AppendAttrs appends a local record of attributes.
func AppendAttrs(b []byte, attrs map[string]string) ([]byte, error) {
	p, err := lean.Marshal(attrs)
	if err != nil {
		return b, err
	}
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(p)))
	body := len(b)
	b = append(append(b, kindAttrs), p...)
	return closeRecord(b, body), nil
}

func closeRecord(b []byte, body int) []byte {
	n := len(b) - body
	b = binary.BigEndian.AppendUint32(b, sum(b[body:]))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// DecodeRecord decodes the record at the start of b and returns its length.
func DecodeRecord(b []byte) (r Record, n int, err error) {
	if len(b) < 4 {
		return r, 0, ErrShort
	}
	size := int(binary.BigEndian.Uint32(b))
	if size < 1 || size > recordMax {
		return r, 0, ErrTorn
	}
	if len(b) < size+recordFrame {
		return r, 0, ErrShort
	}
	body, tail := b[4:4+size], b[4+size:]
	if binary.BigEndian.Uint32(tail) != sum(body) || binary.BigEndian.Uint32(tail[4:]) != uint32(size) {
		return r, 0, ErrTorn
	}
	n = size + recordFrame
	switch kind := body[0]; {
	case kind == kindAttrs:
		if lean.Unmarshal(body[1:], &r.Attrs) != nil {
			return r, 0, ErrTorn
		}
		if r.Attrs == nil {
			r.Attrs = map[string]string{}
		}
	case size >= 9 && (kind&^kindPartial == Stdout || kind&^kindPartial == Stderr):
		r.Stream, r.Partial = kind&^kindPartial, kind&kindPartial != 0
		r.Time = time.Unix(0, int64(binary.BigEndian.Uint64(body[1:]))).UTC()
		r.Line = body[9:]
	default:
		return r, 0, ErrTorn
	}
	return r, n, nil
}

// LastRecord decodes the record at the end of b and returns its length.
func LastRecord(b []byte) (r Record, n int, err error) {
	if len(b) < 4 {
		return r, 0, ErrShort
	}
	size := int(binary.BigEndian.Uint32(b[len(b)-4:]))
	if size < 1 || size > recordMax {
		return r, 0, ErrTorn
	}
	if len(b) < size+recordFrame {
		return r, 0, ErrShort
	}
	return DecodeRecord(b[len(b)-size-recordFrame:])
}

// MaxRecord is the longest record that there is.
const MaxRecord = recordMax + recordFrame

// localFile is our own format.
type localFile struct{ *file }

func openLocal(p Plan, lose loser) (sink, error) {
	var head []byte
	if len(p.Attrs) > 0 {
		var err error
		if head, err = AppendAttrs(nil, p.Attrs); err != nil {
			return nil, err
		}
	}
	f, err := openFile(p, head, lose, wholeLocal)
	if err != nil {
		return nil, err
	}
	if f.size > 0 && len(head) > 0 {
		// An earlier run may have had other attributes.
		if err := f.write(head); err != nil {
			_ = f.close()
			return nil, err
		}
	}
	return localFile{f}, nil
}

func (l localFile) add(e entry) {
	l.begin()
	l.buf = AppendRecord(l.buf, e.at, e.stream, e.partial, e.line)
	l.end(e)
}

// wholeLocal finds the end of the last whole record.
func wholeLocal(f *os.File, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	// The usual case touches little memory: the monitor is to stay small.
	var tail [4]byte
	if _, err := f.ReadAt(tail[:], max(size-4, 0)); err == nil {
		if n := int64(binary.BigEndian.Uint32(tail[:])) + recordFrame; n <= min(size, MaxRecord) {
			last := make([]byte, n)
			if _, err := f.ReadAt(last, size-n); err != nil && !errors.Is(err, io.EOF) {
				return size, err
			}
			if _, _, err := LastRecord(last); err == nil {
				return size, nil
			}
		}
	}
	buf := make([]byte, min(size, MaxRecord))
	// Torn: read on from the start, which happens once after a power cut.
	var at int64
	for at < size {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return size, err
		}
		used := 0
		for {
			_, k, err := DecodeRecord(buf[used:n])
			if err != nil {
				break
			}
			used += k
		}
		if used == 0 {
			return at, nil
		}
		at += int64(used)
	}
	return at, nil
}
