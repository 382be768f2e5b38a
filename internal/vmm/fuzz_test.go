package vmm

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
)

// A QEMU that its guest took over may say anything: it is an error, or an answer
// to this command, and never more than is read of one.
func FuzzQMP(f *testing.F) {
	for _, s := range []string{
		`{"QMP":{}}` + "\n" + `{"return":{},"id":1}` + "\n" + `{"return":{"status":"io-error"},"id":2}` + "\n",
		`{"QMP":{}}` + "\n" + `{"event":"STOP"}` + "\n" + `{"return":{},"id":1}` + "\n" + `{"return":7,"id":1}` + "\n" + `{"error":{"desc":"x"},"id":2}` + "\n",
		"{}\n", "\n\n", `{"QMP":`, `[[[[[`, `{"QMP":{},"return":{},"id":1,"error":{}}` + "\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 64<<10 {
			return // what a socket takes at once
		}
		ours, theirs, err := socketpair("qmp")
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		q := newQMP(ours)
		defer q.close()
		if _, err := theirs.Write(in); err != nil {
			t.Fatal(err)
		}
		_ = unix.Shutdown(int(theirs.Fd()), unix.SHUT_WR)
		m := &machine{qmp: q, down: make(chan struct{})}
		m.health.see(m.state())
		if text := m.health.matter(); len(text) > 500 || bytes.ContainsFunc([]byte(text), unicode.IsControl) {
			t.Errorf("%q", text)
		}
		v, err := q.run("query-balloon", nil)
		if err == nil && !json.Valid(v) {
			t.Errorf("%q", v)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

// The console is the guest's: what is quoted of it are a few lines without
// control characters.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("[ 1.0] a\r\nKernel panic - not syncing: x\x1b[2J\n\nb"))
	f.Add(bytes.Repeat([]byte("x"), 5000))
	f.Fuzz(func(t *testing.T, in []byte) {
		var x tail
		x.follow(bytes.NewReader(in))
		for _, text := range []string{oneLine(x.last(6)), x.panic()} {
			if len(text) > tailSize+100 || bytes.ContainsFunc([]byte(text), unicode.IsControl) {
				t.Errorf("%q", text)
			}
		}
	})
}

// What a guest says of its steps stays between the steps before and now.
func FuzzTrace(f *testing.F) {
	f.Add([]byte(`[{"name":"a","at":1},{"name":"b\u0007","at":-9223372036854775808},{"name":"c","at":9223372036854775807}]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var steps []guestapi.Step
		if json.Unmarshal(in, &steps) != nil {
			return
		}
		began := time.Now().UnixNano()
		x := trace{monitorapi.Step{Name: "first", At: began}}
		x.inside(steps)
		for i, s := range x[1:] {
			if s.At < x[i].At || s.At > time.Now().UnixNano() || len(s.Name) > 300 {
				t.Errorf("step %d: %+v after %+v", i, s, x[i])
			}
		}
	})
}
