package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

func updateCommand(g *global) *cobra.Command {
	var resources string
	values := map[string]*string{}
	cmd := &cobra.Command{Use: "update ID", Short: "change limits", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			r := &specs.LinuxResources{}
			if resources != "" {
				err = readResources(resources, r)
			} else {
				err = fromFlags(cmd, values, r)
			}
			if err != nil {
				return err
			}
			if c.status() == specs.StateStopped {
				return errors.New("container not running")
			}
			pidsOfZero(r)
			return c.group().Update(r)
		}}
	cmd.Flags().StringVarP(&resources, "resources", "r", "", "file with an OCI resources object, - for standard input")
	for _, n := range []string{"memory", "memory-swap", "memory-reservation", "cpu-share", "cpu-quota", "cpu-period", "cpu-burst",
		"cpu-rt-period", "cpu-rt-runtime", "cpu-idle", "cpuset-cpus", "cpuset-mems", "pids-limit", "blkio-weight"} {
		values[n] = cmd.Flags().String(n, "", "limit")
	}
	return cmd
}

// pidsOfZero: 0 is a limit for the specification, and one that lets nothing
// start. It is read as 1, as runc does since 1.4. Docker's 0 is no limit, so
// this is not the cgroup package's to say.
func pidsOfZero(r *specs.LinuxResources) {
	if r != nil && r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit == 0 {
		one := int64(1)
		r.Pids.Limit = &one
	}
}

// earlyPids takes a limit of processes out of r that is too low for our own
// start, some threads, which latePids sets when these need no more of them.
func earlyPids(r *specs.LinuxResources) *specs.LinuxPids {
	const ours = 16
	if r == nil || r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit < 0 || *r.Pids.Limit >= ours {
		return nil
	}
	p := r.Pids
	r.Pids = nil
	return p
}

func (c *container) latePids() error {
	if c.pids == nil {
		return nil
	}
	r := &specs.LinuxResources{Pids: c.pids}
	pidsOfZero(r)
	return c.group().Update(r)
}

// deviceLetters takes out of device rules what is none of r, w and m, as runc
// does; here with a warning. Other mistakes in a rule are refused.
func deviceLetters(r *specs.LinuxResources) (warnings []string) {
	if r == nil {
		return nil
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		known := strings.Map(func(c rune) rune {
			if strings.ContainsRune("rwm", c) {
				return c
			}
			return -1
		}, d.Access)
		if known != d.Access && known != "" { // nothing at all would mean everything
			warnings = append(warnings, fmt.Sprintf("device rule %d: access %q: only r, w and m count", i, d.Access))
			d.Access = known
		}
	}
	return warnings
}

func readResources(file string, r *specs.LinuxResources) error {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return json.NewDecoder(in).Decode(r)
}

func fromFlags(cmd *cobra.Command, values map[string]*string, r *specs.LinuxResources) error {
	var mem specs.LinuxMemory
	var cpu specs.LinuxCPU
	var err error
	signed := func(name string, to **int64, size bool) {
		if err != nil || !cmd.Flags().Changed(name) {
			return
		}
		var v int64
		s := *values[name]
		if size && s != "-1" {
			v, err = units.RAMInBytes(s)
		} else {
			v, err = strconv.ParseInt(s, 10, 64)
		}
		if err != nil {
			err = fmt.Errorf("invalid value for %s: %w", name, err)
		}
		*to = &v
	}
	unsigned := func(name string, to **uint64) {
		var v *int64
		signed(name, &v, false)
		if v != nil {
			u := uint64(*v)
			*to = &u
		}
	}
	signed("memory", &mem.Limit, true)
	signed("memory-swap", &mem.Swap, true)
	signed("memory-reservation", &mem.Reservation, true)
	unsigned("cpu-share", &cpu.Shares)
	signed("cpu-quota", &cpu.Quota, false)
	unsigned("cpu-period", &cpu.Period)
	unsigned("cpu-burst", &cpu.Burst)
	unsigned("cpu-rt-period", &cpu.RealtimePeriod)
	signed("cpu-rt-runtime", &cpu.RealtimeRuntime, false)
	signed("cpu-idle", &cpu.Idle, false)
	cpu.Cpus, cpu.Mems = *values["cpuset-cpus"], *values["cpuset-mems"]
	var pids, weight *int64
	signed("pids-limit", &pids, false)
	signed("blkio-weight", &weight, false)
	if pids != nil {
		r.Pids = &specs.LinuxPids{Limit: pids}
	}
	if weight != nil {
		w := uint16(*weight)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	r.Memory, r.CPU = &mem, &cpu
	return err
}

// event is a line of "events", as runc prints it.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func eventsCommand(g *global) *cobra.Command {
	var stats bool
	interval := 5 * time.Second
	cmd := &cobra.Command{Use: "events ID", Short: "print OOM kills and statistics", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			if c.status() == specs.StateStopped {
				return errors.New("container with id " + c.ID + " is not running")
			}
			if stats {
				return c.printStats()
			}
			return c.follow(interval)
		}}
	cmd.Flags().BoolVar(&stats, "stats", false, "print statistics once")
	cmd.Flags().DurationVar(&interval, "interval", interval, "time between statistics")
	return cmd
}

func (c *container) printStats() error {
	s, err := c.group().Stats()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(event{Type: "stats", ID: c.ID, Data: runcStats(s)})
}

func (c *container) follow(interval time.Duration) error {
	var seen uint64
	next := time.Now().Add(interval)
	for c.alive() {
		if n, err := c.group().OOM(); err == nil && n > seen {
			seen = n
			if err := json.NewEncoder(os.Stdout).Encode(event{Type: "oom", ID: c.ID}); err != nil {
				return err
			}
		}
		if time.Now().After(next) {
			next = time.Now().Add(interval)
			if err := c.printStats(); err != nil {
				return err
			}
		}
		time.Sleep(min(interval, 100*time.Millisecond))
	}
	return nil
}

// runcStats is the part of runc's form that tools read.
func runcStats(s *api.StatsResponse) any {
	return map[string]any{
		"cpu": map[string]any{
			"usage": map[string]any{"total": s.CPUStats.CPUUsage.TotalUsage, "percpu": s.CPUStats.CPUUsage.PercpuUsage,
				"kernel": s.CPUStats.CPUUsage.UsageInKernelmode, "user": s.CPUStats.CPUUsage.UsageInUsermode},
			"throttling": map[string]any{"periods": s.CPUStats.ThrottlingData.Periods,
				"throttledPeriods": s.CPUStats.ThrottlingData.ThrottledPeriods, "throttledTime": s.CPUStats.ThrottlingData.ThrottledTime},
		},
		"memory": map[string]any{
			"usage": map[string]any{"usage": s.MemoryStats.Usage, "max": s.MemoryStats.MaxUsage, "limit": s.MemoryStats.Limit, "failcnt": s.MemoryStats.Failcnt},
			"raw":   s.MemoryStats.Stats,
		},
		"pids":  map[string]any{"current": s.PidsStats.Current, "limit": s.PidsStats.Limit},
		"blkio": s.BlkioStats,
	}
}
