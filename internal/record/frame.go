package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	frameMark   = "\xf7wR\x01"
	frameHeader = len(frameMark) + 8
	// maxFrame bounds one object: a container's record with a 1 MiB request
	// body fits many times; a length that was made up by damage does not.
	maxFrame = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errTooBig = errors.New("object is larger than 16 MiB")

// sealFrame fills in the header, for which b has left room at its start.
func sealFrame(b []byte) ([]byte, error) {
	payload := b[frameHeader:]
	if len(payload) > maxFrame {
		return nil, errTooBig
	}
	copy(b, frameMark)
	binary.LittleEndian.PutUint32(b[len(frameMark):], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[len(frameMark)+4:], crc32.Checksum(payload, castagnoli))
	return b, nil
}

// scan is what readFrames found out about a file.
type scan struct {
	end     int64 // where the last good frame ends
	frames  int
	skipped int64 // bytes between good frames that are none
	tail    int64 // bytes after the last good frame
}

// readFrames calls f with each good frame's payload in order. Bytes that are
// no frame are skipped up to the next one that is.
func readFrames(data []byte, base int64, f func(payload []byte)) scan {
	s := scan{end: base}
	for pos := 0; pos < len(data); {
		payload, n := oneFrame(data[pos:])
		if n > 0 {
			s.skipped += base + int64(pos) - s.end
			pos += n
			s.end = base + int64(pos)
			s.frames++
			f(payload)
			continue
		}
		next := bytes.Index(data[pos+1:], []byte(frameMark))
		if next < 0 {
			break
		}
		pos += 1 + next
	}
	s.tail = base + int64(len(data)) - s.end
	return s
}

// oneFrame returns the payload of the frame that data starts with and the
// frame's size, or 0 if it starts with none.
func oneFrame(data []byte) ([]byte, int) {
	if len(data) < frameHeader || string(data[:len(frameMark)]) != frameMark {
		return nil, 0
	}
	size := binary.LittleEndian.Uint32(data[len(frameMark):])
	sum := binary.LittleEndian.Uint32(data[len(frameMark)+4:])
	if size > maxFrame || int(size) > len(data)-frameHeader {
		return nil, 0
	}
	payload := data[frameHeader : frameHeader+int(size)]
	if crc32.Checksum(payload, castagnoli) != sum {
		return nil, 0
	}
	return payload, frameHeader + int(size)
}
