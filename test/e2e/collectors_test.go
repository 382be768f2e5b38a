package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// message is what a collector got, in one form for all of them.
type message struct {
	text   string
	stream string // stdout, stderr
	tag    string
	at     time.Time
	fields map[string]string
}

// collector receives messages of one protocol on a listener of its own. It
// can go away and come back.
type collector struct {
	t       testing.TB
	network string
	addr    string
	serve   func(*collector, net.Conn)
	wrap    func(net.Listener) net.Listener

	mu    sync.Mutex
	got   []message
	ln    net.Listener
	conns map[net.Conn]bool
}

func newCollector(t testing.TB, network, addr string, serve func(*collector, net.Conn)) *collector {
	t.Helper()
	c := &collector{t: t, network: network, addr: addr, serve: serve}
	c.open()
	t.Cleanup(c.close)
	return c
}

// open listens, again on the same address.
func (c *collector) open() {
	c.t.Helper()
	ln, err := net.Listen(c.network, c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = ln.Addr().String()
	if c.wrap != nil {
		ln = c.wrap(ln)
	}
	c.mu.Lock()
	c.ln, c.conns = ln, map[net.Conn]bool{}
	c.mu.Unlock()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns[conn] = true
			c.mu.Unlock()
			go func() { defer conn.Close(); c.serve(c, conn) }()
		}
	}()
}

// close ends the listener and every connection.
func (c *collector) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.ln.Close()
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *collector) add(m message) {
	c.mu.Lock()
	c.got = append(c.got, m)
	c.mu.Unlock()
}

func (c *collector) all() []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]message(nil), c.got...)
}

// await waits until n messages have come.
func (c *collector) await(n int) []message {
	c.t.Helper()
	if err := eventually(15*time.Second, func() error {
		if got := len(c.all()); got < n {
			return fmt.Errorf("%d messages of %d have come: %+v", got, n, c.all())
		}
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return c.all()
}

// forward serves Fluentd's forward protocol, message mode, and acknowledges
// when asked to.
func forward(c *collector, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		v, err := unpackOne(r)
		if err != nil {
			return
		}
		a, ok := v.([]any)
		if !ok || len(a) < 3 {
			c.t.Errorf("forward: %v", v)
			return
		}
		m := message{tag: fmt.Sprint(a[0]), fields: map[string]string{}}
		switch at := a[1].(type) {
		case int64:
			m.at = time.Unix(at, 0)
		case time.Time:
			m.at = at
		}
		record, _ := a[2].(map[string]any)
		for k, v := range record {
			m.fields[k] = fmt.Sprint(v)
		}
		m.text, m.stream = m.fields["log"], m.fields["source"]
		c.add(m)
		if len(a) > 3 {
			if option, _ := a[3].(map[string]any); option["chunk"] != nil {
				id := option["chunk"].(string)
				_, _ = conn.Write(append([]byte{0x81, 0xa3, 'a', 'c', 'k', 0xd9, byte(len(id))}, id...))
			}
		}
	}
}

// unpackOne decodes one MessagePack value (github.com/msgpack/msgpack, spec).
func unpackOne(r *bufio.Reader) (any, error) {
	b, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	number := func(n int) (uint64, error) {
		p := make([]byte, 8)
		_, err := io.ReadFull(r, p[8-n:])
		return binary.BigEndian.Uint64(p), err
	}
	text := func(n uint64, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		p := make([]byte, n)
		_, err = io.ReadFull(r, p)
		return string(p), err
	}
	switch {
	case b < 0x80:
		return int64(b), nil
	case b < 0x90:
		return unpackMap(r, uint64(b&0x0f))
	case b < 0xa0:
		return unpackArray(r, uint64(b&0x0f))
	case b < 0xc0:
		return text(uint64(b&0x1f), nil)
	case b >= 0xe0:
		return int64(int8(b)), nil
	}
	switch b {
	case 0xc0:
		return nil, nil
	case 0xc2, 0xc3:
		return b == 0xc3, nil
	case 0xcc, 0xcd, 0xce, 0xcf:
		n, err := number(1 << (b - 0xcc))
		return int64(n), err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		k := 1 << (b - 0xd0)
		n, err := number(k)
		return int64(n<<(64-8*k)) >> (64 - 8*k), err
	case 0xd9, 0xda, 0xdb:
		return text(number(1 << (b - 0xd9)))
	case 0xd7: // fixext 8: EventTime
		p := make([]byte, 9)
		_, err := io.ReadFull(r, p)
		return time.Unix(int64(binary.BigEndian.Uint32(p[1:])), int64(binary.BigEndian.Uint32(p[5:]))), err
	case 0xde:
		n, err := number(2)
		if err != nil {
			return nil, err
		}
		return unpackMap(r, n)
	}
	return nil, fmt.Errorf("MessagePack byte %#x", b)
}

func unpackMap(r *bufio.Reader, n uint64) (any, error) {
	m := map[string]any{}
	for range n {
		k, err := unpackOne(r)
		if err != nil {
			return nil, err
		}
		if m[fmt.Sprint(k)], err = unpackOne(r); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func unpackArray(r *bufio.Reader, n uint64) (any, error) {
	var a []any
	for range n {
		v, err := unpackOne(r)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
	return a, nil
}

// gelfStream serves GELF over TCP.
func gelfStream(c *collector, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		b, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		c.addGELF(b[:len(b)-1])
	}
}

func (c *collector) addGELF(b []byte) {
	var raw map[string]any
	if err := json.Unmarshal(b, &raw); err != nil {
		c.t.Errorf("GELF: %v in %.200q", err, b)
		return
	}
	m := message{fields: map[string]string{}, stream: "stdout"}
	for k, v := range raw {
		m.fields[k] = fmt.Sprint(v)
	}
	m.text, m.tag = m.fields["short_message"], m.fields["_tag"]
	if m.fields["level"] == "3" {
		m.stream = "stderr"
	}
	at, _ := raw["timestamp"].(float64)
	m.at = time.UnixMilli(int64(at * 1000))
	c.add(m)
}

// newGELFPackets receives GELF datagrams: compressed or not, in chunks or not.
func newGELFPackets(t testing.TB) *collector {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{t: t, addr: conn.LocalAddr().String()}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		chunks := map[string][][]byte{}
		buf := make([]byte, 65536)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			p := append([]byte(nil), buf[:n]...)
			if n > 12 && p[0] == 0x1e && p[1] == 0x0f {
				id := string(p[2:10])
				if chunks[id] == nil {
					chunks[id] = make([][]byte, p[11])
				}
				chunks[id][p[10]] = p[12:]
				whole := true
				for _, x := range chunks[id] {
					whole = whole && x != nil
				}
				if !whole {
					continue
				}
				p = bytes.Join(chunks[id], nil)
			}
			c.addGELF(inflate(p))
		}
	}()
	return c
}

func inflate(p []byte) []byte {
	var z io.Reader
	switch {
	case len(p) > 1 && p[0] == 0x1f && p[1] == 0x8b:
		z, _ = gzip.NewReader(bytes.NewReader(p))
	case len(p) > 1 && p[0] == 0x78:
		z, _ = zlib.NewReader(bytes.NewReader(p))
	}
	if z == nil {
		return p
	}
	out, _ := io.ReadAll(z)
	return out
}

// syslogStream serves syslog over TCP or TLS, with newlines or counts between
// messages.
func syslogStream(c *collector, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		head, err := r.Peek(1)
		if err != nil {
			return
		}
		var line string
		if head[0] == '<' {
			line, err = r.ReadString('\n')
		} else {
			var count string
			if count, err = r.ReadString(' '); err == nil {
				n, _ := strconv.Atoi(strings.TrimSpace(count))
				p := make([]byte, n)
				_, err = io.ReadFull(r, p)
				line = string(p)
			}
		}
		if err != nil {
			return
		}
		m := message{stream: "stdout", fields: map[string]string{"raw": line}}
		var priority int
		_, _ = fmt.Sscanf(line, "<%d>", &priority)
		if priority&7 == 3 {
			m.stream = "stderr"
		}
		sep := "]: "
		if strings.Contains(line, ">1 ") {
			sep = " - "
		}
		_, m.text, _ = strings.Cut(strings.TrimSuffix(line, "\n"), sep)
		c.add(m)
	}
}
