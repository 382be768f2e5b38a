package lifecycle

import (
	"context"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// stopper ends containers.
type stopper struct {
	*core
	starter *starter
	exits   *exits
}

// killPatience is how long SIGKILL may take: a process in an uninterruptible
// system call.
const killPatience = 10 * time.Second

// Stop sends the stop signal, waits, and then kills. errdefs.ErrNotModified:
// it does not run.
func (s *stopper) Stop(ctx context.Context, ref string, r model.StopRequest) error {
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	if !active(e.record().State.Phase) {
		return notModified("container is already stopped")
	}
	if err := s.stop(ctx, e, r, false); err != nil {
		return wrap(err, "cannot stop container: %s", ref)
	}
	s.event(e.record(), events.ActionStop, nil)
	return nil
}

// stop ends e's run and returns when its exit is on record. The verb lock is
// held only to send signals, so that kill and a shorter stop get through while
// this one waits. manual: a start follows at once, so no policy acts.
func (s *stopper) stop(ctx context.Context, e *entry, r model.StopRequest, manual bool) error {
	sig, err := stopSignal(e.record(), r.Signal)
	if err != nil {
		return err
	}
	grace := s.grace(e.record(), r.Timeout)
	ended := e.waiters.add(false)
	defer e.waiters.drop(ended)

	asked := time.Now()
	running, err := s.request(ctx, e, sig, manual)
	deaf := errdefs.IsUnavailable(err)
	if err != nil && !deaf || err == nil && !running {
		return err
	}
	if deaf { // it may hear the next one, but gets no further time for that
		s.slog.WarnContext(ctx, "the stop signal did not arrive", "id", e.id, "err", err)
		if grace >= 0 {
			grace = max(0, grace-time.Since(asked))
		}
	}
	if over, err := s.linger(ctx, e, sig, grace, deaf, manual, ended); over || err != nil {
		return err
	}
	if _, err := s.request(context.WithoutCancel(ctx), e, syscall.SIGKILL, manual); err != nil {
		return err
	}
	return s.dead(e, ended)
}

// deafTime is how often the stop signal is sent again to what does not get it.
const deafTime = 2 * time.Second

// linger waits for the end of a run that was asked to stop, and says whether it
// came within grace; a grace below 0 is for ever. The client's going away does
// not end the wait: the kill must come.
func (s *stopper) linger(ctx context.Context, e *entry, sig syscall.Signal, grace time.Duration, deaf, manual bool, ended <-chan model.WaitResult) (bool, error) {
	var patience <-chan time.Time
	if grace >= 0 {
		patience = time.After(grace)
	}
	for {
		var again <-chan time.Time
		if deaf {
			again = time.After(deafTime)
		}
		select {
		case <-ended:
			return true, nil
		case <-patience:
			return false, nil
		case <-s.life.Done():
			return false, errdefs.ErrUnavailable.WithMessage("the daemon is stopping")
		case <-again:
			_, err := s.request(context.WithoutCancel(ctx), e, sig, manual)
			deaf = errdefs.IsUnavailable(err)
		}
	}
}

// dead waits for the end of a killed run.
func (s *stopper) dead(e *entry, ended <-chan model.WaitResult) error {
	select {
	case <-ended:
		return nil
	case <-time.After(killPatience):
		return errdefs.ErrInternal.WithMessage("tried to kill container, but did not receive an exit event")
	case <-s.life.Done():
		return errdefs.ErrUnavailable.WithMessage("the daemon is stopping")
	}
}

// request notes that a person wants the end and sends the signal. It reports
// false when nothing runs any more.
func (s *stopper) request(ctx context.Context, e *entry, sig syscall.Signal, manual bool) (bool, error) {
	ctx, _, done, err := s.begin(ctx, string(e.id))
	if errdefs.IsNotFound(err) {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	defer done()
	if !active(e.record().State.Phase) {
		return false, nil
	}
	if manual {
		e.setManual(true)
	}
	what := askedStop
	if manual {
		what = askedRestart
	}
	return true, s.send(ctx, e, sig, what, true)
}

// send sends sig to e's run. byPerson: the run's end is wanted, so the restart
// policy keeps still; what is the verb. The caller holds the verb lock.
func (s *stopper) send(ctx context.Context, e *entry, sig syscall.Signal, what string, byPerson bool) error {
	if byPerson {
		s.want(ctx, e)
	}
	if byPerson && e.record().State.Phase == container.StateRestarting {
		s.cancelRestart(ctx, e)
		return nil
	}
	inst, err := e.instance()
	if err != nil {
		return err // also while it waits for its restart: nobody is there to get the signal
	}
	e.ask(what, sig, byPerson)
	e.doom(sig)
	if err := inst.Signal(ctx, sig); err != nil && !errdefs.IsNotFound(err) { // not found: it is ending
		return wrap(err, "cannot kill container: %s", e.id)
	}
	s.event(e.record(), events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	if e.record().State.Phase == container.StatePaused && byPerson {
		return s.thaw(ctx, e, inst)
	}
	return nil
}

// want notes the wish for an end; on record only where a policy would read it
// after a crash.
func (s *stopper) want(ctx context.Context, e *entry) {
	e.setStopped()
	c := e.record()
	if c.StoppedByUser || c.HostConfig.RestartPolicy.IsNone() {
		return
	}
	// A full disk is no reason not to stop something.
	s.force(ctx, e, func(c *model.Container) { c.StoppedByUser = true })
}

// thaw lets a paused container go on so that it sees its signal.
func (s *stopper) thaw(ctx context.Context, e *entry, inst driver.Instance) error {
	if err := inst.Resume(ctx); err != nil {
		return wrap(err, "cannot unpause container %s", e.id)
	}
	s.force(ctx, e, func(c *model.Container) { c.State.Phase = container.StateRunning })
	return nil
}

// cancelRestart ends the wait between two runs.
func (s *stopper) cancelRestart(ctx context.Context, e *entry) {
	e.disarm()
	s.force(ctx, e, func(c *model.Container) {
		c.State.Phase, c.StoppedByUser = container.StateExited, true
	})
	e.waiters.exited(result(e.record()))
}

// Restart stops, if it runs, and starts.
func (s *stopper) Restart(ctx context.Context, ref string, r model.StopRequest) error {
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	if active(e.record().State.Phase) {
		err = s.stop(ctx, e, r, true)
	}
	if err == nil {
		err = s.startAgain(ctx, e)
	}
	if err != nil {
		e.setManual(false)
		return wrap(err, "Cannot restart container %s", ref)
	}
	s.event(e.record(), events.ActionRestart, nil)
	return nil
}

// startAgain starts e, whatever its client does meanwhile.
func (s *stopper) startAgain(ctx context.Context, e *entry) error {
	ctx, _, done, err := s.begin(context.WithoutCancel(ctx), string(e.id))
	if err != nil {
		return err
	}
	defer done()
	switch p := e.record().State.Phase; {
	case e.record().State.Running():
		return nil // somebody else was faster
	case p == container.StateRemoving || p == container.StateDead:
		return conflict("container is marked for removal and cannot be started")
	}
	return s.starter.start(ctx, e, true, 0)
}

// Kill sends a signal by name or number; "" and KILL end the container and
// return when it has ended.
func (s *stopper) Kill(ctx context.Context, ref, name string) error {
	sig := syscall.SIGKILL
	if name != "" {
		var err error
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	ended := e.waiters.add(false)
	defer e.waiters.drop(ended)
	if err := s.kill(ctx, e, ref, sig); err != nil {
		return err
	}
	if sig != syscall.SIGKILL {
		return nil
	}
	return s.dead(e, ended)
}

func (s *stopper) kill(ctx context.Context, e *entry, ref string, sig syscall.Signal) error {
	ctx, _, done, err := s.begin(ctx, string(e.id))
	if err != nil {
		return err
	}
	defer done()
	c := e.record()
	if !active(c.State.Phase) {
		return conflict("cannot kill container: %s: container %s is not running", ref, c.ID)
	}
	stop, err := stopSignal(c, "")
	if err != nil {
		return err
	}
	return s.send(ctx, e, sig, askedKill, sig == syscall.SIGKILL || sig == stop)
}

// killNow kills e's run and handles its end while the verb lock stays held, for
// removal: no policy acts in between.
func (s *stopper) killNow(ctx context.Context, e *entry) error {
	if e.record().State.Phase == container.StateRestarting {
		s.cancelRestart(ctx, e)
		return nil
	}
	inst, err := e.instance()
	if err != nil {
		return s.killLost(ctx, e)
	}
	e.setStopped()
	if err := s.send(ctx, e, syscall.SIGKILL, askedRemove, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	exit, err := inst.Wait(ctx)
	if err != nil {
		return wrap(err, "could not kill container")
	}
	s.exits.end(ctx, e, inst, exit, true)
	return nil
}

// killLost ends a run that could not be taken up after a restart of the
// daemon, because its monitor does not answer. It does nothing when there is
// none.
func (s *stopper) killLost(ctx context.Context, e *entry) error {
	if !e.record().State.Running() {
		return nil
	}
	d, err := s.driver(e.record())
	if err != nil {
		return err
	}
	if err := d.Release(ctx, e.id); err != nil {
		return wrap(err, "could not kill container")
	}
	inst := lost{exit: model.Exit{Code: 137, At: s.now(), Error: "ended because its monitor did not answer"}}
	e.began(inst)
	s.exits.end(ctx, e, inst, inst.exit, true)
	return nil
}

// grace is how long a stop waits; negative is for ever.
func (s *stopper) grace(c *model.Container, timeout *int) time.Duration {
	secs := s.opts.Defaults.StopTimeout
	if secs == 0 {
		secs = 10
	}
	if t := c.Config.StopTimeout; t != nil {
		secs = *t
	}
	if timeout != nil {
		secs = *timeout
	}
	return time.Duration(secs) * time.Second
}

// stopSignal is the signal asked for, or the container's, or TERM.
func stopSignal(c *model.Container, name string) (syscall.Signal, error) {
	if name == "" {
		name = c.Config.StopSignal
	}
	if name == "" {
		return syscall.SIGTERM, nil
	}
	return parseSignal(name)
}

// parseSignal reads "KILL", "SIGKILL" or "9".
func parseSignal(name string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, invalid("%v", err)
	}
	if !signal.ValidSignalForPlatform(sig) {
		return 0, invalid("the linux daemon does not support signal %d", sig)
	}
	return sig, nil
}
