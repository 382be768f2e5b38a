package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/runtime"
)

func printStack() { debug.PrintStack() }

// call is one request under way.
type call struct {
	stream *yamux.Stream
	reader *guestapi.Reader
	req    guestapi.Request
}

// reply answers the request.
func (c *call) reply(r guestapi.Reply) error {
	r.Version = guestapi.Version
	return guestapi.WriteJSON(c.stream, guestapi.ReplyFrame, r)
}

// handlers are the operations.
var handlers = map[guestapi.Op]func(*Agent, *call) error{
	guestapi.OpState:    (*Agent).state,
	guestapi.OpBoot:     (*Agent).bootOp,
	guestapi.OpStart:    (*Agent).start,
	guestapi.OpExec:     (*Agent).exec,
	guestapi.OpSignal:   (*Agent).signal,
	guestapi.OpResize:   (*Agent).resize,
	guestapi.OpPause:    (*Agent).pause,
	guestapi.OpResume:   (*Agent).resume,
	guestapi.OpStats:    (*Agent).stats,
	guestapi.OpTop:      (*Agent).top,
	guestapi.OpUpdate:   (*Agent).update,
	guestapi.OpLink:     (*Agent).link,
	guestapi.OpUnlink:   (*Agent).unlink,
	guestapi.OpMount:    (*Agent).mountOp,
	guestapi.OpUnmount:  (*Agent).unmount,
	guestapi.OpFile:     (*Agent).file,
	guestapi.OpStat:     (*Agent).stat,
	guestapi.OpGet:      (*Agent).get,
	guestapi.OpPut:      (*Agent).put,
	guestapi.OpExport:   (*Agent).export,
	guestapi.OpUpper:    (*Agent).upper,
	guestapi.OpChanges:  (*Agent).changes,
	guestapi.OpFreshen:  (*Agent).freshenOp,
	guestapi.OpSync:     (*Agent).sync,
	guestapi.OpRehearse: (*Agent).rehearse,
	guestapi.OpReset:    (*Agent).reset,
	guestapi.OpForget:   (*Agent).forget,
	guestapi.OpTrim:     (*Agent).trim,
	guestapi.OpHalt:     (*Agent).halt,
	guestapi.OpPowerOff: (*Agent).powerOff,
}

// beforeBoot are the operations that need no instance.
var beforeBoot = map[guestapi.Op]bool{
	guestapi.OpState: true, guestapi.OpBoot: true, guestapi.OpFreshen: true, guestapi.OpPowerOff: true, guestapi.OpSync: true, guestapi.OpRehearse: true,
}

// serve answers one stream.
func (a *Agent) serve(stream *yamux.Stream) {
	defer func() { _ = stream.Close() }()
	_ = stream.SetReadDeadline(time.Now().Add(requestTime))
	c := &call{stream: stream, reader: &guestapi.Reader{R: stream}}
	if err := c.reader.Expect(guestapi.RequestFrame, &c.req); err != nil {
		if errors.Is(err, guestapi.ErrFrame) {
			_ = guestapi.WriteJSON(stream, guestapi.Error, asFailed(invalid("%v", err)))
		}
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	if err := a.answer(c); err != nil {
		_ = guestapi.WriteJSON(stream, guestapi.Error, asFailed(err))
	}
}

func (a *Agent) answer(c *call) error {
	f := handlers[c.req.Op]
	if f == nil {
		return failed(guestapi.KindUnimplemented, "this machine's agent does not know the operation %q: it was started by another version of wharf", c.req.Op)
	}
	if !beforeBoot[c.req.Op] && a.booted() == nil {
		return failed(guestapi.KindUnavailable, "%s: the machine has not been told what it is", c.req.Op)
	}
	return f(a, c)
}

func (a *Agent) booted() *guestapi.Boot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.boot
}

func failed(kind, format string, args ...any) error {
	return &guestapi.Failed{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return failed(guestapi.KindInvalid, format, args...)
}

// asFailed is what the host is told of err.
func asFailed(err error) *guestapi.Failed {
	var f *guestapi.Failed
	var x *runtime.ExecError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &x):
		return &guestapi.Failed{Kind: guestapi.KindInvalid, Code: x.Code, Text: x.Msg}
	}
	return &guestapi.Failed{Kind: kindOf(err), Text: err.Error()}
}

// state says what the agent knows.
func (a *Agent) state(c *call) error {
	a.mu.Lock()
	s := &guestapi.State{Agent: a.version, Uptime: uptime(), Booted: a.boot != nil, Paused: a.paused}
	if a.boot != nil {
		s.ID = a.boot.ID
	}
	if a.main != nil {
		s.Pid, s.Exit = a.main.state()
	}
	for id := range a.execs {
		s.Execs = append(s.Execs, id)
	}
	a.mu.Unlock()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		s.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	s.OOMKills, _ = a.group.OOM()
	s.Memory = memory()
	s.CPUs = onlineCPUs()
	s.Time = time.Now().UnixNano()
	return c.reply(guestapi.Reply{State: s})
}

func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// sync writes everything to the disks.
func (a *Agent) sync(c *call) error {
	unix.Sync()
	return c.reply(guestapi.Reply{})
}

// forget drops cached names and files that nobody uses (proc(5), drop_caches).
func (a *Agent) forget(c *call) error {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// powerOff ends the machine. The reply is on its way before.
func (a *Agent) powerOff(c *call) error {
	err := c.reply(guestapi.Reply{})
	_ = c.stream.Close()
	a.down()
	return err
}

// halt is powerOff for a host that then kills QEMU: for an emulated kernel to
// put every device to rest takes longer than all the rest of its end.
func (a *Agent) halt(c *call) error {
	a.rest()
	return c.reply(guestapi.Reply{})
}

// down ends every process, so that nothing holds the disk, and the machine.
func (a *Agent) down() {
	a.rest()
	a.machine.powerOff()
}

// rest leaves nothing that would still write.
func (a *Agent) rest() {
	_ = a.group.Kill()
	unix.Sync()
	a.unmountAll()
}

// decode reads a part of a request that is not looked into by guestapi.
func decode(raw json.RawMessage, what string, into any) error {
	if len(raw) == 0 {
		return invalid("the request has no %s", what)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return invalid("%s: %v", what, err)
	}
	return nil
}
