package lifecycle

import (
	"fmt"
	"strconv"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// The verbs that end a run.
const (
	askedStop    = "stop"
	askedRestart = "restart"
	askedKill    = "kill"
	askedRemove  = "rm"
)

// asked is what was last done to end the present run.
type asked struct {
	what      string
	sig       syscall.Signal
	before    syscall.Signal // the stop signal that SIGKILL had to follow
	wanted    bool           // the run's end was the aim, not just a signal
	unhealthy bool           // it was the engine, on behalf of a health check
}

// ask notes a signal that the engine sends to the present run.
func (e *entry) ask(what string, sig syscall.Signal, wanted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.again.asked
	if a.what == what && sig == syscall.SIGKILL && a.sig != sig {
		a.before = a.sig
	}
	a.what, a.sig, a.wanted = what, sig, a.wanted || wanted
}

// blame notes that the engine is about to end the run because it is unhealthy.
func (e *entry) blame() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again.asked.unhealthy = true
}

// takeAsked returns and forgets what was asked of the run that has ended.
func (e *entry) takeAsked() asked {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.again.asked
	e.again.asked = asked{}
	return a
}

// gaveUp returns after how many restarts a policy lets a failure be one; 0:
// that is not why the container stays down.
func gaveUp(policy container.RestartPolicy, count, code int, stopped bool) int {
	if policy.Name != container.RestartPolicyOnFailure || code == 0 || stopped || policy.MaximumRetryCount == 0 || count < policy.MaximumRetryCount {
		return 0
	}
	return count
}

// endOf says why the run of c ended.
func endOf(c *model.Container, exit model.Exit, a asked, gaveUp int) *model.End {
	sig := syscall.Signal(exit.Signal)
	if sig == 0 && exit.Code > 128 && c.HostConfig.Init != nil && *c.HostConfig.Init {
		sig = syscall.Signal(exit.Code - 128) // the init in front of the program passes it on so
	}
	out := &model.End{Reason: model.EndExited, GaveUp: gaveUp, Text: "exited with code " + strconv.Itoa(exit.Code)}
	if sig != 0 {
		out.Signal = signalName(sig)
	}
	switch {
	case exit.Error != "":
		out.Reason, out.Text = model.EndEngine, exit.Error
	case exit.OOMKilled && exit.Code == 128+int(syscall.SIGKILL): // else it lived on without a child that was killed
		out.Reason, out.Text = model.EndOOM, "killed by the kernel for lack of memory"
		if m := c.HostConfig.Memory; m > 0 {
			out.Text += fmt.Sprintf(" (limit %d MiB)", m>>20)
		}
	case a.unhealthy && a.what != "":
		out.Reason, out.Text = model.EndHealth, "stopped by the engine because it was unhealthy (label "+onUnhealthy+")"
	case byUser(a, exit, sig):
		out.Reason, out.Text = model.EndUser, userText(a, exit)
	case sig != 0:
		out.Reason, out.Text = model.EndSignal, "ended by "+out.Signal+", which did not come through the engine"
	}
	if exit.OOMKilled && out.Reason == model.EndExited {
		out.Text += "; the kernel had killed a process in it for lack of memory"
	}
	if gaveUp > 0 {
		out.Text += fmt.Sprintf("; the restart policy gave up after %d restarts", gaveUp)
	}
	return out
}

// byUser reports whether what was asked is why the run ended. A signal by the
// verb kill that the program survived is not.
func byUser(a asked, exit model.Exit, sig syscall.Signal) bool {
	if a.what == askedKill {
		return a.wanted || sig == a.sig || exit.Code == 128+int(a.sig)
	}
	return a.what != ""
}

func userText(a asked, exit model.Exit) string {
	name := signalName(a.sig)
	switch {
	case a.what == askedRemove:
		return "killed by the user with rm -f"
	case a.what == askedKill:
		return "killed by the user with " + name
	case a.before != 0:
		return fmt.Sprintf("stopped by the user; it did not end on %s and was killed", signalName(a.before))
	case a.what == askedRestart:
		return "stopped by the user with " + name + " for a restart"
	}
	return fmt.Sprintf("stopped by the user with %s (exit code %d)", name, exit.Code)
}

func signalName(s syscall.Signal) string {
	if n := unix.SignalName(s); n != "" {
		return n
	}
	return "signal " + strconv.Itoa(int(s))
}
