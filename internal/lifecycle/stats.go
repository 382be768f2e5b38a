package lifecycle

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// stats samples containers.
type stats struct{ *core }

// clockTick is USER_HZ, in which /proc/stat counts, as nanoseconds; it is 100
// on every Linux that Go runs on.
const clockTick = uint64(time.Second / 100)

// Stats calls yield with samples. One-shot: one, at once, without the one
// before. Not streaming: one, a second after a first, so that rates can be
// computed. Streaming: every second.
func (s stats) Stats(ctx context.Context, ref string, stream, oneShot bool, yield func(*container.StatsResponse) bool) error {
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	last, err := s.sample(ctx, e, nil)
	if !stream && errdefs.IsUnavailable(err) { // who streams sees zeros until it answers
		return err
	}
	if !stream && oneShot {
		yield(last)
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if !stream && last.CPUStats.OnlineCPUs == 0 { // stopped: there is no rate to wait for
		yield(last)
		return nil
	}
	if stream && !yield(last) {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.life.Done():
			return nil
		case <-tick.C:
		}
		if e.isGone() {
			return nil
		}
		now, _ := s.sample(ctx, e, last)
		if !yield(now) || !stream {
			return nil
		}
		last = now
	}
}

// sample reads the counters now; zeros when the container does not run, or its
// instance does not tell, which is the error then.
func (s stats) sample(ctx context.Context, e *entry, last *container.StatsResponse) (out *container.StatsResponse, err error) {
	c := e.record()
	out = &container.StatsResponse{}
	if inst, gone := e.instance(); gone == nil {
		var got *container.StatsResponse
		if got, err = inst.Stats(ctx); err == nil {
			out = got
			out.CPUStats.SystemUsage, out.CPUStats.OnlineCPUs = systemCPU()
			if out.MemoryStats.Limit == 0 || out.MemoryStats.Limit > hostMemory() {
				out.MemoryStats.Limit = hostMemory()
			}
			out.Networks = s.network(ctx, c)
			out.Read = s.now()
		} else {
			s.slog.DebugContext(ctx, "no statistics", "id", e.id, "err", err)
		}
	}
	out.ID, out.Name, out.OSType = string(c.ID), "/"+c.Name, "linux"
	if last != nil {
		out.PreCPUStats, out.PreRead = last.CPUStats, last.Read
	}
	return out, err
}

// network reads the interfaces; those of the container whose network this one
// shares.
func (s stats) network(ctx context.Context, c *model.Container) map[string]container.NetworkStats {
	id := c.ID
	if other := s.plan.Joins(*c).Net; other != "" {
		id = other
	} else if len(c.Attached) == 0 {
		return nil
	}
	n, err := s.networks.Stats(ctx, id)
	if err != nil {
		return nil
	}
	return n
}

// systemCPU reads the machine's CPU time in nanoseconds and its online CPUs
// from /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, irq,
// softirq; guest time is in user already.
func systemCPU() (nanos uint64, cpus uint32) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	return parseStat(text)
}

func parseStat(text []byte) (nanos uint64, cpus uint32) {
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("cpu")) {
			break // the rest is long: interrupts
		}
		f := bytes.Fields(line)
		if string(f[0]) != "cpu" {
			cpus++
			continue
		}
		for _, v := range f[1:min(len(f), 9)] {
			n, _ := strconv.ParseUint(string(v), 10, 64)
			nanos += n * clockTick
		}
	}
	return nanos, cpus
}

// hostMemory is the machine's memory in bytes, 0 if unknown; a container
// without a limit may use it all.
func hostMemory() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	f := bytes.Fields(text)
	if len(f) < 2 || string(f[0]) != "MemTotal:" {
		return 0
	}
	kib, _ := strconv.ParseUint(string(f[1]), 10, 64)
	return kib * 1024
}
