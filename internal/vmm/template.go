package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"wharf/api/guestapi"
)

// saveTime is how long the state of a stopped machine may take to be written:
// a few hundred kilobytes.
const saveTime = 60 * time.Second

// resumeTime is how long a clone may take to read its template's state, and
// then again to answer.
const resumeTime = 30 * time.Second

// resumeLimit is resumeTime, or more where machines are given long to come up.
func (m *machine) resumeLimit() time.Duration { return max(resumeTime, m.spec.BootTime/4) }

// save writes the machine's state, its memory left out (x-ignore-shared), and
// ends it. The agent has no session then: a clone begins a new one.
func (m *machine) save(to *os.File) error {
	if to == nil {
		return errors.New("there is no file for the template's state")
	}
	if _, err := m.ask(askTime, guestapi.Request{Op: guestapi.OpRehearse}); err != nil {
		return err
	}
	_ = m.session.Close()
	time.Sleep(200 * time.Millisecond) // for the agent to be idle again
	if err := m.ignoreShared(); err != nil {
		return err
	}
	if _, err := m.qmp.run("stop", nil); err != nil {
		return err
	}
	if _, err := m.qmp.runWith("getfd", object("fdname", "state"), to); err != nil {
		return err
	}
	if _, err := m.qmp.run("migrate", object("uri", "fd:state")); err != nil {
		return err
	}
	for end := time.Now().Add(saveTime); ; time.Sleep(20 * time.Millisecond) {
		v, err := m.qmp.run("query-migrate", nil)
		if err != nil {
			return err
		}
		var s struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(v, &s); err != nil {
			return err
		}
		switch {
		case s.Status == "completed":
			m.kill()
			return nil
		case s.Status == "failed" || s.Status == "cancelled":
			return fmt.Errorf("the machine's state was not saved: %s", s.Desc)
		case time.Now().After(end):
			return fmt.Errorf("the machine's state was not saved within %v", saveTime)
		}
	}
}

// ignoreShared leaves memory that others have too out of a machine's state.
func (m *machine) ignoreShared() error {
	_, err := m.qmp.run("migrate-set-capabilities", json.RawMessage(`{"capabilities":[{"capability":"x-ignore-shared","state":true}]}`))
	return err
}

// resume lets a clone go on where its template was stopped. What is wrong with
// the state ends QEMU, which greet sees.
func (m *machine) resume() error {
	if m.spec.Incoming == 0 {
		return nil
	}
	err := m.ignoreShared()
	if err == nil {
		_, err = m.qmp.run("migrate-incoming", object("uri", "fd:"+strconv.Itoa(m.spec.Incoming)))
	}
	for end := time.Now().Add(m.resumeLimit()); err == nil; time.Sleep(2 * time.Millisecond) {
		var v json.RawMessage
		if v, err = m.qmp.run("query-status", nil); err != nil {
			break
		}
		var s struct {
			Status string `json:"status"`
		}
		if err = json.Unmarshal(v, &s); err != nil {
			break
		}
		if s.Status != "inmigrate" { // it has come in, stopped as it was saved
			if err = m.plugLate(); err == nil {
				_, err = m.qmp.run("cont", nil)
			}
			break
		}
		if time.Now().After(end) {
			err = fmt.Errorf("the template's state was not read within %v", m.resumeLimit())
		}
	}
	if err != nil {
		return m.gone(err)
	}
	m.trace.add("clone resumes")
	return nil
}
