package lifecycle

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// exits handles the end of runs.
type exits struct {
	*core
	starter *starter
	remover *remover
	health  *health
}

// watch waits for a run's end and handles it. It runs for as long as the
// container does.
func (x *exits) watch(e *entry, inst driver.Instance) {
	x.watchMemory(e, inst)
	exit, err := inst.Wait(x.life)
	if x.life.Err() != nil {
		return // the daemon ends; the next one takes it up
	}
	if err != nil {
		exit = model.Exit{Code: 255, At: x.now(), Error: "exit unknown: " + err.Error()}
	}
	if e.lock(x.life) != nil {
		return
	}
	defer e.unlock()
	ctx, cancel := x.detach(x.life)
	defer cancel()
	x.end(ctx, e, inst, exit, false)
}

// end records the exit, releases what the run held, and does what follows:
// restart, removal or nothing. final forbids restart and removal: a person is
// restarting or removing the container right now. Once per run; the caller
// holds the verb lock.
func (x *exits) end(ctx context.Context, e *entry, inst driver.Instance, exit model.Exit, final bool) {
	if !e.over(inst) {
		return
	}
	x.lateOOM(e, exit)
	began := time.Now()
	x.health.end(e)
	r := &run{e: e, c: e.record()}
	lasted := exit.At.Sub(r.c.State.StartedAt)
	policy := r.c.HostConfig.RestartPolicy
	final = final || e.isManual()
	again := !final && wanted(policy, e.retries(), exit.Code, r.c.StoppedByUser || e.isStopped())
	remove := !final && !again && r.c.HostConfig.AutoRemove

	end := endOf(r.c, exit, e.takeAsked(), gaveUp(policy, e.retries(), exit.Code, final || r.c.StoppedByUser || e.isStopped()))

	// First the record, so that the code survives whatever comes.
	steps := x.starter.steps()
	if !x.force(ctx, e, func(c *model.Container) {
		x.mark(c, exit, e.isStopped(), again, remove)
		c.State.End, c.State.OOMKilled = end, c.State.OOMKilled || e.hadOOM()
	}) {
		e.kept.Store(true) // the driver's own note is the only one that survives the daemon: see settle
		steps = slices.DeleteFunc(steps, func(s step[*run]) bool { return s.name == stepInstance })
	}
	var err error
	if r.drv, err = x.driver(r.c); err != nil {
		x.report(e.id)("driver", err)
	} else {
		_ = unwind(ctx, steps, r, x.report(e.id)) // reported there
	}
	x.volumeEvents(r.c, events.ActionUnmount)
	x.event(e.record(), events.ActionDie, map[string]string{
		"exitCode":     strconv.Itoa(exit.Code),
		"execDuration": strconv.Itoa(int(max(lasted, 0).Seconds())),
	})
	e.finish()
	level := slog.LevelDebug
	if exit.Error != "" { // else only until its next start would anybody know
		level = slog.LevelWarn
	}
	x.slog.Log(ctx, level, "ended", "id", e.id, "code", exit.Code, "release", time.Since(began), "reason", end.Text)
	switch {
	case again:
		e.waiters.exited(result(e.record())) // each end is one, as with Docker
		x.schedule(e, e.delay(lasted))
	case remove:
		e.waiters.exited(result(e.record()))
		if err := x.remover.finish(ctx, e); err != nil {
			x.slog.ErrorContext(ctx, "container not removed after its end", "id", e.id, "err", err)
		}
	default:
		e.waiters.exited(result(e.record()))
	}
}

// mark puts the exit into the record.
func (x *exits) mark(c *model.Container, exit model.Exit, stopped, again, remove bool) {
	to := []model.Phase{container.StateExited}
	switch {
	case again:
		to = []model.Phase{container.StateRestarting}
		c.RestartCount++
	case remove:
		to = append(to, container.StateRemoving)
	}
	for _, p := range to {
		st, err := c.State.To(p)
		if err != nil { // what has happened is no request that could be refused
			x.slog.Error("exit in an unexpected state", "id", c.ID, "err", err)
			st.Phase = p
		}
		c.State = st
	}
	c.State.Pid, c.State.ExitCode, c.State.FinishedAt = 0, exit.Code, exit.At
	c.State.Error, c.State.OOMKilled = exit.Error, exit.OOMKilled || c.State.OOMKilled
	if remove {
		c.Removal = x.removal(model.RemovedAuto, true)
	}
	if h := c.State.Health; h != nil {
		after := *h
		after.Status = container.Unhealthy // as Docker: nobody checks any more
		c.State.Health = &after
	}
	c.StoppedByUser = c.StoppedByUser || stopped
	c.Attached = nil
}

// schedule starts e again after the delay, unless it is stopped meanwhile.
func (x *exits) schedule(e *entry, delay time.Duration) {
	e.arm(time.AfterFunc(delay, func() {
		if x.life.Err() != nil || e.lock(x.life) != nil {
			return
		}
		defer e.unlock()
		if e.record().State.Phase != container.StateRestarting {
			return
		}
		ctx, cancel := x.detach(x.life)
		defer cancel()
		if err := x.starter.start(ctx, e, false, 0); err != nil {
			x.slog.Warn("container could not be restarted", "id", e.id, "err", err)
		}
	}))
}
