package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// figure is one row of the report: the medians of one thing by engine.
type figure struct {
	name   string
	unit   string // ms, MiB, /s
	values map[string]float64
	more   bool // more is better
}

// contender is one engine's way to do the thing that is measured.
type contender struct {
	name    string
	do      func() error
	between func() error // after each, not measured
}

// compare runs the contenders in turn and records the medians.
func (b *bench) compare(name string, list ...contender) error {
	if b.only != "" && !strings.Contains(name, b.only) {
		return nil
	}
	times := map[string][]float64{}
	for round := range b.rounds + 2 {
		for _, c := range list {
			start := time.Now()
			if err := c.do(); err != nil {
				return fmt.Errorf("%s: %s: %w", name, c.name, err)
			}
			took := time.Since(start)
			if c.between != nil {
				if err := c.between(); err != nil {
					return fmt.Errorf("%s: %s: %w", name, c.name, err)
				}
			}
			if round >= 2 { // two to warm up
				times[c.name] = append(times[c.name], float64(took.Microseconds())/1000)
			}
		}
	}
	f := figure{name: name, unit: "ms", values: map[string]float64{}}
	for engine, ts := range times {
		f.values[engine] = median(ts)
	}
	b.rows = append(b.rows, f)
	fmt.Fprintf(os.Stderr, "%-42s %v\n", name, f.values)
	return nil
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// part is a section of the bench, in the order in which they are measured.
type part struct {
	name string
	do   func(*bench) error
	// alone: without dockerd beside it, whose rules drop what is forwarded, and
	// where br_netfilter is, that is also what crosses other bridges.
	alone bool
}

var parts = []part{
	{name: "network", do: (*bench).measureNetwork, alone: true},
	{name: "verbs", do: (*bench).measureAll},
	{name: "build", do: (*bench).measureBuild},
	{name: "scale", do: (*bench).measureScale},
	{name: "vm", do: (*bench).measureVM},
}

func sectionNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// wants reports whether a section is to be measured.
func (b *bench) wants(name string) bool {
	return b.section == "" || slices.Contains(strings.Split(b.section, ","), name)
}

// measure runs the sections that are wanted, as long as there is time.
func (b *bench) measure() error {
	for _, name := range strings.Split(b.section, ",") {
		if b.section != "" && !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("no section %q: there are %s", name, sectionNames())
		}
	}
	start := time.Now()
	var errs []error
	for _, p := range parts {
		if !b.wants(p.name) {
			continue
		}
		if time.Since(start) > b.limit {
			errs = append(errs, fmt.Errorf("section %s: no time left: make bench ONLY=%s", p.name, p.name))
			continue
		}
		if !p.alone {
			if err := b.startPeers(); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		began := time.Now()
		if err := p.do(b); err != nil {
			errs = append(errs, fmt.Errorf("section %s: %w", p.name, err))
		}
		fmt.Fprintf(os.Stderr, "section %s took %s\n", p.name, time.Since(began).Round(time.Second))
	}
	return errors.Join(errs...)
}

// measureAll is the section verbs.
func (b *bench) measureAll() error {
	for _, step := range []func() error{b.measureRun, b.measureVerbs, b.measureAPI, b.measureMemory, b.measureThroughput, b.measureLoad} {
		if err := step(); err != nil {
			return err
		}
	}
	b.whole = true
	return nil
}

// measureRun is run to exit, everything on by default.
func (b *bench) measureRun() error {
	run := func(e *engine, more ...string) func() error {
		args := append(append([]string{"run", "--rm"}, more...), "busybox", "true")
		return func() error { return b.cli(e, args...) }
	}
	floor := contender{name: "floor", do: func() error {
		out, err := exec.Command(b.floor, filepath.Join(b.dir, "floor")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}}
	list := []contender{floor}
	none := []contender{floor}
	for _, e := range b.engines() {
		list = append(list, contender{name: e.name, do: run(e)})
		none = append(none, contender{name: e.name, do: run(e, "--network", "none")})
	}
	list = append(list, contender{name: "wharf CLI", do: func() error {
		_, err := b.commandOut(filepath.Join(b.bin, "wharf"), b.wharf, "run", "--rm", "busybox", "true")
		return err
	}})
	if b.podman != "" {
		none = append(none, contender{name: "podman", do: b.podRun})
	}
	if b.crun != "" {
		none = append(none, contender{name: "crun", do: func() error { return b.bare(b.crun) }})
	}
	if b.runc != "" {
		none = append(none, contender{name: "runc", do: func() error { return b.bare(b.runc) }})
	}
	if err := b.compare("docker CLI: run --rm, bridge network", list...); err != nil {
		return err
	}
	return b.compare("docker CLI: run --rm --network none", none...)
}

// measureVerbs is exec, stop and rm -f through the CLI.
func (b *bench) measureVerbs() error {
	var execs, stops, removes []contender
	for _, e := range b.engines() {
		if err := b.cli(e, "run", "-d", "--name", "bench-exec", "busybox", "sleep", "10000"); err != nil {
			return err
		}
		again := func() error { return b.cli(e, "run", "-d", "--init", "--name", "bench-x", "busybox", "sleep", "10000") }
		remove := func() error { return b.cli(e, "rm", "-f", "bench-x") }
		execs = append(execs, contender{name: e.name, do: func() error { return b.cli(e, "exec", "bench-exec", "true") }})
		if err := again(); err != nil {
			return err
		}
		stops = append(stops, contender{name: e.name, do: func() error { return b.cli(e, "stop", "-t", "0", "bench-x") },
			between: func() error { return joinErr(remove(), again) }})
		removes = append(removes, contender{name: e.name, do: remove, between: again})
	}
	if err := b.compare("docker CLI: exec true", execs...); err != nil {
		return err
	}
	if err := b.compare("docker CLI: stop -t 0", stops...); err != nil {
		return err
	}
	if err := b.compare("docker CLI: rm -f of a running one", removes...); err != nil {
		return err
	}
	for _, e := range b.engines() {
		if err := b.cli(e, "rm", "-f", "bench-x", "bench-exec"); err != nil {
			return err
		}
	}
	return nil
}

func joinErr(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

const sleeper = `{"Image":"busybox","Cmd":["sleep","10000"],"HostConfig":{"Init":true}}`

// create makes a container through the API and returns its id.
func (e *engine) create(body string) (string, error) {
	out, err := e.call("POST", "/containers/create", body)
	if err != nil {
		return "", err
	}
	var r struct{ ID string }
	return r.ID, jsonInto(out, &r)
}

func jsonInto(s string, v any) error { return json.Unmarshal([]byte(s), v) }

// measureAPI leaves the CLI's own time out.
func (b *bench) measureAPI() error {
	var starts, execs, removes, runs []contender
	for _, e := range b.engines() {
		var id string
		createStart := func() (err error) {
			if id, err = e.create(sleeper); err == nil {
				_, err = e.call("POST", "/containers/"+id+"/start", "")
			}
			return err
		}
		remove := func() error { _, err := e.call("DELETE", "/containers/"+id+"?force=1", ""); return err }
		starts = append(starts, contender{name: e.name, do: createStart, between: remove})
		removes = append(removes, contender{name: e.name, do: func() error { return remove() }, between: createStart})
		execs = append(execs, contender{name: e.name, do: func() error { return e.execTrue(id) }})
		runs = append(runs, contender{name: e.name, do: e.runToExit})
	}
	if err := b.compare("API: create and start to running", starts...); err != nil {
		return err
	}
	if err := b.compare("API: create, start, wait, remove (true)", runs...); err != nil {
		return err
	}
	for _, c := range removes { // one each to begin with
		if err := c.between(); err != nil {
			return err
		}
	}
	if err := b.compare("API: exec true", execs...); err != nil {
		return err
	}
	if err := b.compare("API: remove with force", removes...); err != nil {
		return err
	}
	for _, c := range removes {
		if err := c.do(); err != nil {
			return err
		}
	}
	return nil
}

// execTrue runs an exec until its output ends.
func (e *engine) execTrue(id string) error {
	out, err := e.call("POST", "/containers/"+id+"/exec", `{"Cmd":["true"],"AttachStdout":true}`)
	if err != nil {
		return err
	}
	var r struct{ ID string }
	if err := jsonInto(out, &r); err != nil {
		return err
	}
	_, err = e.call("POST", "/exec/"+r.ID+"/start", `{"Detach":false}`)
	return err
}

func (e *engine) runToExit() error {
	id, err := e.create(`{"Image":"busybox","Cmd":["true"]}`)
	if err != nil {
		return err
	}
	if _, err := e.call("POST", "/containers/"+id+"/start", ""); err != nil {
		return err
	}
	if _, err := e.call("POST", "/containers/"+id+"/wait", ""); err != nil {
		return err
	}
	_, err = e.call("DELETE", "/containers/"+id, "")
	return err
}

// measureMemory starts twenty sleepers and reads the PSS of the daemons and of
// what holds each container.
func (b *bench) measureMemory() error {
	const n = 20
	holder := figure{name: "memory of what holds a container (PSS)", unit: "MiB", values: map[string]float64{}}
	daemon := figure{name: "memory of the daemon with 20 containers (PSS)", unit: "MiB", values: map[string]float64{}}
	for _, e := range b.engines() {
		before := e.daemons()
		var ids []string
		for range n {
			id, err := e.create(sleeper)
			if err != nil {
				return err
			}
			if _, err := e.call("POST", "/containers/"+id+"/start", ""); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		time.Sleep(500 * time.Millisecond)
		var held float64
		for _, pid := range holders(ids) {
			held += pss(pid)
		}
		holder.values[e.name] = held / n
		for _, pid := range before {
			daemon.values[e.name] += pss(pid)
		}
		for _, id := range ids {
			if _, err := e.call("DELETE", "/containers/"+id+"?force=1", ""); err != nil {
				return err
			}
		}
	}
	b.rows = append(b.rows, holder, daemon)
	return nil
}

// daemons are the engine's process and its children (dockerd's containerd).
func (e *engine) daemons() []int {
	pids := []int{e.cmd.Process.Pid}
	for pid, p := range processTable() {
		if p.parent == e.cmd.Process.Pid && !strings.HasPrefix(p.args, "wharf-monitor") { // those are the containers'
			pids = append(pids, pid)
		}
	}
	return pids
}

// holders are processes with a container's id on their command line: monitors,
// shims.
func holders(ids []string) []int {
	var pids []int
	for pid, p := range processTable() {
		for _, id := range ids {
			if strings.Contains(p.args, id) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

type process struct {
	parent int
	args   string
}

func processTable() map[int]process {
	table := map[int]process{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			table[pid] = process{parent, strings.ReplaceAll(string(args), "\x00", " ")}
		}
	}
	return table
}

// pss is a process's proportional share of memory in MiB.
func pss(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}

// measureThroughput keeps both cores busy with containers that end at once.
func (b *bench) measureThroughput() error {
	if b.throughput == 0 {
		return nil
	}
	f := figure{name: "API: containers run to exit and removed", unit: "/s", values: map[string]float64{}, more: true}
	for _, e := range b.engines() {
		var done atomic.Int64
		var first atomic.Pointer[error]
		var wg sync.WaitGroup
		end := time.Now().Add(time.Duration(b.throughput) * time.Second)
		start := time.Now()
		for range 6 {
			wg.Go(func() {
				for time.Now().Before(end) {
					if err := e.runToExit(); err != nil {
						first.CompareAndSwap(nil, &err)
						return
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
		if err := first.Load(); err != nil {
			return *err
		}
		f.values[e.name] = float64(done.Load()) / time.Since(start).Seconds()
	}
	b.rows = append(b.rows, f)
	return nil
}

// measureLoad loads Debian images that are not there yet, each another one.
func (b *bench) measureLoad() error {
	if b.quick {
		return nil
	}
	rounds := b.rounds
	b.rounds = 3
	defer func() { b.rounds = rounds }()
	files, err := variants(filepath.Join(b.images, "debian.tar"), b.dir, b.rounds+2)
	if err != nil {
		return err
	}
	var list []contender
	for _, e := range b.engines() {
		next := 0
		list = append(list, contender{name: e.name, do: func() error {
			next++
			return b.cli(e, "load", "-q", "-i", files[next-1])
		}})
	}
	if err := b.compare("docker CLI: load of Debian, 120 MiB", list...); err != nil {
		return err
	}
	if b.only != "" {
		return nil
	}
	peak := figure{name: "peak memory of the daemon after that (VmHWM)", unit: "MiB", values: map[string]float64{}}
	for _, e := range b.engines() {
		peak.values[e.name] = e.peak()
	}
	b.rows = append(b.rows, peak)
	return nil
}

// peak is the most memory that the daemon's process ever had, in MiB.
func (e *engine) peak() float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}
