package image

import (
	"io"

	"github.com/opencontainers/go-digest"
)

// meter tells how much was read, at most every 512 KiB.
type meter struct {
	r       io.Reader
	tell    func(n int64)
	n, last int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n-m.last >= 512<<10 || (err == io.EOF && m.n != m.last) {
		m.last = m.n
		m.tell(m.n)
	}
	return n, err
}

// digestReader reads ahead and, when asked, digests on a goroutine of its own,
// so that decompression, digesting and writing files overlap.
type digestReader struct {
	chunks chan chunk
	free   chan []byte
	stop   chan struct{}
	ended  chan struct{}
	cur    chunk
	off    int
	digest digest.Digest
}

type chunk struct {
	b   []byte
	err error
}

func newDigestReader(r io.Reader, hash bool) *digestReader {
	d := &digestReader{chunks: make(chan chunk, 16), free: make(chan []byte, 16), stop: make(chan struct{}), ended: make(chan struct{})}
	for range 16 {
		d.free <- make([]byte, 64<<10)
	}
	go d.run(r, hash)
	return d
}

func (d *digestReader) run(r io.Reader, hash bool) {
	defer close(d.ended)
	h := digest.Canonical.Digester()
	for {
		var buf []byte
		select {
		case buf = <-d.free:
		case <-d.stop:
			return
		}
		n, err := io.ReadFull(r, buf[:cap(buf)])
		if err == io.ErrUnexpectedEOF && n > 0 {
			err = nil // the next read tells whether it was the end
		}
		if hash {
			_, _ = h.Hash().Write(buf[:n])
		}
		if err == io.EOF && hash {
			d.digest = h.Digest() // read after the channel delivered io.EOF
		}
		select {
		case d.chunks <- chunk{buf[:n], err}:
		case <-d.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (d *digestReader) Read(p []byte) (int, error) {
	for d.off == len(d.cur.b) {
		if d.cur.err != nil {
			return 0, d.cur.err
		}
		if d.cur.b != nil {
			d.free <- d.cur.b
		}
		d.cur, d.off = <-d.chunks, 0
	}
	n := copy(p, d.cur.b[d.off:])
	d.off += n
	return n, nil
}

// Digest is that of everything read, once Read said io.EOF.
func (d *digestReader) Digest() digest.Digest { return d.digest }

// Close ends the goroutine; nothing reads r after it.
func (d *digestReader) Close() {
	close(d.stop)
	<-d.ended
}
