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

// open sends a request and reads its reply; the stream is the caller's.
func (m *machine) open(limit time.Duration, q guestapi.Request) (net.Conn, *guestapi.Reader, *guestapi.Reply, error) {
	s, err := m.session.Open()
	if err != nil {
		return nil, nil, nil, m.gone(err)
	}
	_ = s.SetDeadline(time.Now().Add(limit))
	q.Version = guestapi.Version
	r := &guestapi.Reader{R: s, Max: guestapi.ReplyBound(q.Op)}
	reply := new(guestapi.Reply)
	if err = guestapi.WriteJSON(s, guestapi.RequestFrame, q); err == nil {
		err = r.Expect(guestapi.ReplyFrame, reply)
	}
	if err != nil {
		_ = s.Close()
		if errors.Is(err, yamux.ErrTimeout) {
			return nil, nil, nil, &monitorapi.Failed{Kind: monitorapi.KindUnavailable,
				Text: fmt.Sprintf("the machine did not answer %q within %v", q.Op, limit)}
		}
		return nil, nil, nil, m.gone(failed(err))
	}
	_ = s.SetDeadline(time.Time{})
	return s, r, reply, nil
}

// ask is open for what has no stream.
func (m *machine) ask(limit time.Duration, q guestapi.Request) (*guestapi.Reply, error) {
	s, _, reply, err := m.open(limit, q)
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
	select {
	case <-m.down:
		return &monitorapi.Failed{Kind: monitorapi.KindNotFound, Text: m.lost()}
	default:
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
		if err := m.alive(); err == nil || m.full.Load() {
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
			m.sendEtc()
		}
	}
}

// sendEtc sends those that have changed.
func (m *machine) sendEtc() {
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
		if _, err := m.ask(askTime, guestapi.Request{Op: guestapi.OpFile, File: &guestapi.File{Path: f.Guest, Mode: 0o644, Data: text}}); err == nil {
			m.etc.seen[f.Host] = st.ModTime()
		}
	}
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
	s, err := m.session.Open()
	if err != nil {
		_ = monitorapi.WriteJSON(conn, monitorapi.Error, asFailed(m.gone(err)))
		return nil
	}
	defer s.Close()
	g.Version = guestapi.Version
	if err := guestapi.WriteJSON(s, guestapi.RequestFrame, g); err != nil {
		_ = monitorapi.WriteJSON(conn, monitorapi.Error, asFailed(m.gone(err)))
		return nil
	}
	go func() {
		_, _ = io.Copy(s, from.R) // the reader holds nothing: it reads whole frames
		_ = s.Close()
	}()
	_, _ = io.Copy(conn, s)
	return nil
}

func asFailed(err error) *monitorapi.Failed {
	var f *monitorapi.Failed
	if errors.As(err, &f) {
		return f
	}
	return &monitorapi.Failed{Kind: monitorapi.KindUnavailable, Text: err.Error()}
}
