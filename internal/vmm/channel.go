package vmm

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// askTime is how long the agent may take for what takes it no time.
const askTime = 20 * time.Second

// Silence: how often the agent is asked how it is, and how many questions it
// may leave without an answer.
const (
	watchTime  = 30 * time.Second
	silentTime = 2 * time.Minute
)

func newNonce() (n [guestapi.NonceLen]byte, err error) {
	_, err = rand.Read(n[:])
	return n, err
}

// session is the session's configuration: both ends are slow when the machine
// is, and each request has its own limit.
func session() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = time.Minute
	c.StreamCloseTimeout = time.Minute
	c.StreamOpenTimeout = 0
	c.LogOutput = io.Discard
	return c
}

// open sends a request and reads its reply; the stream is the caller's. A
// machine that is known not to answer is not waited for as long as another.
func (m *machine) open(limit time.Duration, q guestapi.Request) (net.Conn, *guestapi.Reader, *guestapi.Reply, error) {
	if err := m.passable(string(q.Op)); err != nil {
		return nil, nil, nil, err
	}
	return m.request(m.health.limit(limit), q)
}

// request is open for what waits as long as it was told to.
func (m *machine) request(limit time.Duration, q guestapi.Request) (net.Conn, *guestapi.Reader, *guestapi.Reply, error) {
	q.Version = guestapi.Version
	r, reply := &guestapi.Reader{Max: guestapi.ReplyBound(q.Op)}, new(guestapi.Reply)
	s, err := m.stream(limit, string(q.Op), func(s *yamux.Stream) error {
		if err := guestapi.WriteJSON(s, guestapi.RequestFrame, q); err != nil {
			return err
		}
		r.R = s
		return r.Expect(guestapi.ReplyFrame, reply)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	return s, r, reply, nil
}

// ask is open for what has no stream.
func (m *machine) ask(limit time.Duration, q guestapi.Request) (*guestapi.Reply, error) {
	return onlyReply(m.open(limit, q))
}

// insist is request for what has no stream.
func (m *machine) insist(limit time.Duration, q guestapi.Request) (*guestapi.Reply, error) {
	return onlyReply(m.request(limit, q))
}

func onlyReply(s net.Conn, _ *guestapi.Reader, reply *guestapi.Reply, err error) (*guestapi.Reply, error) {
	if err != nil {
		return nil, err
	}
	_ = s.Close()
	return reply, nil
}

// gone explains an error that comes of the machine's end.
func (m *machine) gone(err error) error {
	var f *monitorapi.Failed
	if errors.As(err, &f) {
		return err
	}
	var patience time.Duration
	if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) { // QEMU's end is known a little later than its socket's
		patience = time.Second
	}
	select {
	case <-m.down:
		return &monitorapi.Failed{Kind: monitorapi.KindNotFound, Text: m.lost()}
	case <-time.After(patience):
		return err
	}
}

// stuck adds to a machine's silence what it last said on its console.
func (m *machine) stuck(err error) error {
	var f *monitorapi.Failed
	if !errors.As(err, &f) || f.Kind != monitorapi.KindUnavailable {
		return err
	}
	m.end(f.Text)
	return errSilent{errors.New(m.lost())}
}

// watch ends a machine whose agent has fallen silent.
func (m *machine) watch() {
	last := time.Now()
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	for {
		select {
		case <-m.down:
			return
		case <-tick.C:
		}
		if err := m.alive(); err == nil || m.health.full() {
			last = time.Now()
			continue
		}
		if silent := time.Since(last); silent > silentTime {
			m.end(fmt.Sprintf("the machine's agent did not answer for %v", silent.Round(time.Second)))
			return
		}
	}
}

// etcFiles are the guest's /etc files that the host writes. mu is held while
// they are sent, so that an exec sees what was there when it began.
type etcFiles struct {
	files []vmmapi.EtcFile

	mu   sync.Mutex
	seen map[string]time.Time
}

// newEtc notes what the guest has got with Boot.
func newEtc(files []vmmapi.EtcFile) *etcFiles {
	e := &etcFiles{files: files, seen: map[string]time.Time{}}
	for _, f := range files {
		if st, err := os.Stat(f.Host); err == nil {
			e.seen[f.Host] = st.ModTime()
		}
	}
	return e
}

// followEtc sends the guest its /etc files again when they have changed on the
// host: a name or an address of the network is another one.
func (m *machine) followEtc() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for len(m.etc.files) > 0 {
		select {
		case <-m.down:
			return
		case <-tick.C:
			_ = m.sendEtc() // a second later again
		}
	}
}

// sendEtc sends those that have changed. An error is a machine that does not
// answer.
func (m *machine) sendEtc() error {
	m.etc.mu.Lock()
	defer m.etc.mu.Unlock()
	for _, f := range m.etc.files {
		st, err := os.Stat(f.Host)
		if err != nil || st.ModTime().Equal(m.etc.seen[f.Host]) {
			continue
		}
		text, err := os.ReadFile(f.Host)
		if err != nil {
			continue
		}
		_, err = m.ask(askTime, guestapi.Request{Op: guestapi.OpFile, File: &guestapi.File{Path: f.Guest, Mode: 0o644, Data: text}})
		if err == nil {
			m.etc.seen[f.Host] = st.ModTime()
		}
		if isUnavailable(err) {
			return err
		}
	}
	return nil
}

// pass hands a connection on to the guest: the request in q's body, then
// frames both ways. Both protocols have one layout, and the daemon bounds what
// it reads.
func (m *machine) pass(conn *os.File, from *monitorapi.Reader, q monitorapi.Request) error {
	var g guestapi.Request
	if err := json.Unmarshal(q.Body, &g); err != nil {
		_ = monitorapi.WriteJSON(conn, monitorapi.Error, monitorapi.Failed{Kind: monitorapi.KindInvalid, Text: "request for the guest: " + err.Error()})
		return nil
	}
	defer conn.Close()
	g.Version = guestapi.Version
	first, n := make([]byte, 32<<10), 0
	err := m.passable(string(g.Op))
	var s *yamux.Stream
	if err == nil {
		s, err = m.stream(m.health.limit(replyTime), string(g.Op), func(s *yamux.Stream) (err error) {
			if err = guestapi.WriteJSON(s, guestapi.RequestFrame, g); err == nil {
				n, err = s.Read(first)
			}
			return err
		})
	}
	if err != nil {
		_ = monitorapi.WriteJSON(conn, monitorapi.Error, asFailed(err))
		return nil
	}
	defer func() { _ = s.Close() }()
	if _, err := conn.Write(first[:n]); err != nil {
		return nil
	}
	go func() {
		_, _ = io.Copy(s, from.R) // the reader holds nothing: it reads whole frames
		_ = s.Close()
	}()
	_, _ = io.Copy(conn, s)
	return nil
}

// isUnavailable says whether an error is a machine's that does not answer.
func isUnavailable(err error) bool {
	var f *monitorapi.Failed
	return errors.As(err, &f) && f.Kind == monitorapi.KindUnavailable
}

func asFailed(err error) *monitorapi.Failed {
	var f *monitorapi.Failed
	if errors.As(err, &f) {
		return f
	}
	return &monitorapi.Failed{Kind: monitorapi.KindUnavailable, Text: err.Error()}
}
