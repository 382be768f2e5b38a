package vmm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/frame"
	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// qmpTime is how long QEMU may take for a command.
const qmpTime = 30 * time.Second

// maxQMP is the longest answer that is read: QEMU may be in the hands of its
// guest.
const maxQMP = 1 << 20

// qmp speaks QEMU's machine protocol: one command at a time, events between
// the answers are passed over.
type qmp struct {
	conn *os.File
	r    *bufio.Reader

	mu    sync.Mutex // one command at a time; guards what follows
	met   bool       // the greeting was read
	ready bool       // commands are allowed
	part  []byte     // of a line whose end did not come in time
	last  uint64     // the last command's id
}

// qmpMessage is anything that QEMU sends. ID is that of the command which it
// answers: one that took too long may be answered later than the next was sent.
type qmpMessage struct {
	ID       uint64          `json:"id"`
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

func newQMP(conn *os.File) *qmp { return &qmp{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)} }

func (q *qmp) close() { _ = q.conn.Close() }

// run runs a command and returns its value.
func (q *qmp) run(command string, arguments json.RawMessage) (json.RawMessage, error) {
	return q.within(qmpTime, command, arguments, nil)
}

// runFor runs a command without arguments that may take as long as limit.
func (q *qmp) runFor(limit time.Duration, command string) (json.RawMessage, error) {
	return q.within(limit, command, nil, nil)
}

// runWith passes a descriptor along, for getfd.
func (q *qmp) runWith(command string, arguments json.RawMessage, file *os.File) (json.RawMessage, error) {
	return q.within(qmpTime, command, arguments, file)
}

func (q *qmp) within(limit time.Duration, command string, arguments json.RawMessage, file *os.File) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	_ = q.conn.SetDeadline(time.Now().Add(limit))
	if !q.met {
		m, err := q.next()
		if err != nil {
			return nil, err
		}
		if m.Greeting == nil {
			return nil, errors.New("qmp: no greeting")
		}
		q.met = true
	}
	if !q.ready {
		if _, err := q.command("qmp_capabilities", nil, nil); err != nil {
			return nil, err
		}
		q.ready = true
	}
	return q.command(command, arguments, file)
}

func (q *qmp) command(name string, arguments json.RawMessage, file *os.File) (json.RawMessage, error) {
	q.last++
	line, err := json.Marshal(struct {
		vmmapi.QMP
		ID uint64 `json:"id"`
	}{vmmapi.QMP{Execute: name, Arguments: arguments}, q.last})
	if err != nil {
		return nil, err
	}
	if err := q.send(append(line, '\n'), file); err != nil {
		return nil, fmt.Errorf("qmp %s: %w", name, err)
	}
	for {
		m, err := q.next()
		switch {
		case err != nil:
			return nil, fmt.Errorf("qmp %s: %w", name, err)
		case m.ID != q.last: // an event, or an answer that came too late
		case m.Error != nil:
			return nil, fmt.Errorf("qmp %s: %s", name, frame.Printable(m.Error.Desc, 500))
		case m.Return != nil:
			return m.Return, nil
		}
	}
}

// send writes a line, with a descriptor if there is one (SCM_RIGHTS, unix(7)).
func (q *qmp) send(line []byte, file *os.File) error {
	if file == nil {
		_, err := q.conn.Write(line)
		return err
	}
	rc, err := q.conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), line, unix.UnixRights(int(file.Fd())), nil, unix.MSG_NOSIGNAL)
		return !errors.Is(serr, unix.EAGAIN)
	})
	return errors.Join(err, serr)
}

// next reads one line.
func (q *qmp) next() (*qmpMessage, error) {
	for {
		part, err := q.r.ReadSlice('\n')
		if q.part = append(q.part, part...); len(q.part) > maxQMP {
			return nil, errors.New("an answer that is too long")
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	line := q.part
	q.part = nil
	m := new(qmpMessage)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, err
	}
	return m, nil
}

// serveQMP answers a daemon's request for QEMU.
func (m *machine) serveQMP(conn *os.File, q monitorapi.Request) error {
	var c vmmapi.QMP
	if err := json.Unmarshal(q.Body, &c); err != nil {
		return &monitorapi.Failed{Kind: monitorapi.KindInvalid, Text: "qmp request: " + err.Error()}
	}
	v, err := m.qmp.run(c.Execute, c.Arguments)
	if err != nil {
		return m.gone(err)
	}
	return monitorapi.WriteJSON(conn, monitorapi.ReplyFrame, monitorapi.Reply{Version: monitorapi.Version, Body: v})
}
