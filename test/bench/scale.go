package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// scenario is so many containers of one kind on one engine.
type scenario struct {
	title   string
	engine  *engine
	count   int
	network bool
	health  int           // so many of them have a health check
	limit   time.Duration // how long the start of all may take; peers get as far as they get
}

// scaled is what a scenario brought, by row.
type scaled struct {
	scenario
	values map[string]string
	notes  []string
}

// scaleRows are the table's rows and their budgets.
var scaleRows = [][2]string{
	{"started", ""},
	{"start all", "30 s for 1,000"},
	{"daemon's CPU for it, a container", ""},
	{"list", "50 ms"},
	{"inspect", "5 ms"},
	{"memory a container (monitor, PSS)", "1 MiB"},
	{"daemon's memory (PSS)", ""},
	{"daemon's CPU, idle", "1 %"},
	{"daemon killed and started again", "3 s"},
	{"fsck", "clean"},
	{"stop and remove all", "30 s for 1,000"},
	{"fsck after", "clean"},
}

// clients is how many requests are under way at once.
const clients = 8

// measureScale runs the scenarios one after the other.
func (b *bench) measureScale() error {
	if b.quick {
		return nil
	}
	var list []scenario
	for _, n := range b.counts() {
		list = append(list, scenario{title: fmt.Sprintf("wharf, %d on a bridge", n), engine: b.wharf, count: n, network: true, limit: 10 * time.Minute})
	}
	most := b.counts()[len(b.counts())-1]
	list = append(list,
		scenario{title: fmt.Sprintf("wharf, %d without network", most), engine: b.wharf, count: most, limit: 10 * time.Minute},
		scenario{title: "wharf, 100 with health checks", engine: b.wharf, count: min(100, most), network: true, health: 100, limit: 10 * time.Minute})
	if b.dockerd != nil {
		list = append(list, scenario{title: "docker, on a bridge", engine: b.dockerd, count: most, network: true, limit: time.Minute},
			scenario{title: "docker, without network", engine: b.dockerd, count: most, limit: time.Minute})
	}
	for _, s := range list {
		r, err := b.scale(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		b.scales = append(b.scales, *r)
		fmt.Fprintf(os.Stderr, "%s: %v %v\n", s.title, r.values, r.notes)
	}
	return nil
}

// counts are 200, then 1,000, unless the caller says otherwise.
func (b *bench) counts() []int {
	var out []int
	for _, f := range strings.Split(b.scaleCounts, ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(f)); err == nil && n > 0 {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return []int{200, 1000}
	}
	return out
}

// scale measures one scenario and removes what it made.
func (b *bench) scale(s scenario) (r *scaled, err error) {
	r = &scaled{scenario: s, values: map[string]string{}}
	var ids []string
	defer func() { err = errors.Join(err, r.remove(ids)) }()
	cpu := s.engine.cpu()
	began := time.Now()
	ids, err = r.startAll()
	took := time.Since(began)
	if err != nil {
		return r, err
	}
	r.values["started"] = strconv.Itoa(len(ids))
	r.values["start all"] = fmt.Sprintf("%.1f s", took.Seconds())
	r.values["daemon's CPU for it, a container"] = fmt.Sprintf("%.1f ms", float64((s.engine.cpu()-cpu).Milliseconds())/float64(len(ids)))
	if err := r.ask(ids); err != nil {
		return r, err
	}
	r.memory(ids)
	r.idle()
	if s.engine == b.wharf {
		r.fsck("fsck")
	}
	return r, r.again(b)
}

// startAll creates and starts, several clients at once, until all run or the
// time is up.
func (r *scaled) startAll() ([]string, error) {
	mode := "bridge"
	if !r.network {
		mode = "none"
	}
	var mu sync.Mutex
	var ids []string
	var first error
	next, deadline := 0, time.Now().Add(r.limit)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= r.count || first != nil || time.Now().After(deadline)
				mu.Unlock()
				if stop {
					return
				}
				health := ""
				if i < r.health {
					health = `,"Healthcheck":{"Test":["CMD","true"]}` // every 30 s
				}
				id, err := r.engine.create(fmt.Sprintf(`{"Image":"busybox","Cmd":["sleep","100000"],"HostConfig":{"NetworkMode":%q}%s}`, mode, health))
				if err == nil {
					_, err = r.engine.call("POST", "/containers/"+id+"/start", "")
				}
				mu.Lock()
				if id != "" {
					ids = append(ids, id)
				}
				if err != nil && first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if first != nil && len(ids) > 0 && r.engine.name != "wharf" { // as far as it gets
		r.notes = append(r.notes, fmt.Sprintf("stopped after %d: %v", len(ids), first))
		first = nil
	}
	return ids, first
}

// ask lists and inspects.
func (r *scaled) ask(ids []string) error {
	var lists, inspects []float64
	for range 10 {
		began := time.Now()
		body, err := r.engine.call("GET", "/containers/json", "")
		if err != nil {
			return err
		}
		lists = append(lists, float64(time.Since(began).Microseconds())/1000)
		if n := strings.Count(body, `"Names":`); n < len(ids) {
			return fmt.Errorf("%d of %d containers are listed", n, len(ids))
		}
	}
	for i := range 40 {
		began := time.Now()
		if _, err := r.engine.call("GET", "/containers/"+ids[i*len(ids)/40]+"/json", ""); err != nil {
			return err
		}
		inspects = append(inspects, float64(time.Since(began).Microseconds())/1000)
	}
	r.values["list"] = fmt.Sprintf("%.1f ms", median(lists))
	r.values["inspect"] = fmt.Sprintf("%.1f ms", median(inspects))
	return nil
}

// memory reads every fifth holder, 100 at most: reading PSS costs.
func (r *scaled) memory(ids []string) {
	some := ids
	if len(some) > 100 {
		some = ids[:100]
	}
	var held float64
	for _, pid := range holders(some) {
		held += pss(pid)
	}
	r.values["memory a container (monitor, PSS)"] = fmt.Sprintf("%.2f MiB", held/float64(len(some)))
	var daemon float64
	for _, pid := range r.engine.daemons() {
		daemon += pss(pid)
	}
	r.values["daemon's memory (PSS)"] = fmt.Sprintf("%.0f MiB", daemon)
}

// idle watches the daemon do nothing, or one round of its health checks.
func (r *scaled) idle() {
	watch := 10 * time.Second
	if r.health > 0 {
		watch = 30 * time.Second
	}
	time.Sleep(2 * time.Second)
	before := r.engine.cpu()
	time.Sleep(watch)
	r.values["daemon's CPU, idle"] = fmt.Sprintf("%.1f %%", 100*float64(r.engine.cpu()-before)/float64(watch))
	if r.health == 0 {
		return
	}
	var n int
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && n < r.health; time.Sleep(time.Second) {
		body, err := r.engine.call("GET", "/containers/json?filters="+url.QueryEscape(`{"health":{"healthy":true}}`), "")
		if n = strings.Count(body, `"Names":`); err != nil {
			break
		}
	}
	if n < r.health {
		r.notes = append(r.notes, fmt.Sprintf("only %d of %d became healthy", n, r.health))
	}
}

// again kills the daemon and starts it: how long until it answers. Docker's is
// stopped in order, since it does not find its containers after a kill.
func (r *scaled) again(b *bench) error {
	if r.engine != b.wharf {
		return nil
	}
	if err := r.engine.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = r.engine.cmd.Wait()
	r.engine.http.CloseIdleConnections()
	began := time.Now()
	if err := b.startWharf(); err != nil {
		return err
	}
	took := time.Since(began)
	body, err := r.engine.call("GET", "/containers/json", "")
	if err != nil {
		return err
	}
	if n := strings.Count(body, `"Names":`); n < r.count {
		r.notes = append(r.notes, fmt.Sprintf("%d of %d run after the restart", n, r.count))
	}
	r.values["daemon killed and started again"] = fmt.Sprintf("%.2f s", took.Seconds())
	return nil
}

func (r *scaled) fsck(row string) {
	began := time.Now()
	body, err := r.engine.call("GET", "/wharf/v1/fsck", "")
	var got struct {
		Findings []struct{ Room, Thing, Name, Detail string }
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &got)
	}
	r.values[row] = fmt.Sprintf("clean, %d ms", time.Since(began).Milliseconds())
	if err != nil || len(got.Findings) > 0 {
		r.values[row] = fmt.Sprintf("%d findings", len(got.Findings))
		r.notes = append(r.notes, fmt.Sprintf("%s: %v %.300v", row, err, got.Findings))
	}
}

// remove stops and removes all.
func (r *scaled) remove(ids []string) error {
	began := time.Now()
	work := make(chan string)
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for id := range work {
				_, err := r.engine.call("POST", "/containers/"+id+"/stop?t=0", "")
				if err == nil {
					_, err = r.engine.call("DELETE", "/containers/"+id+"?v=1", "")
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	wg.Wait()
	r.values["stop and remove all"] = fmt.Sprintf("%.1f s", time.Since(began).Seconds())
	if r.engine.name == "wharf" {
		time.Sleep(time.Second)
		r.fsck("fsck after")
	}
	return errors.Join(errs...)
}

// cpu is what the daemon and its children have used so far.
func (e *engine) cpu() time.Duration {
	var ticks int64
	for _, pid := range e.daemons() {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		for _, i := range []int{11, 12} { // utime, stime
			if n, err := strconv.ParseInt(f[i], 10, 64); err == nil {
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// scaleReport is the section of docs/performance.md between its marks.
func (b *bench) scaleReport() string {
	if len(b.scales) == 0 {
		return ""
	}
	var s strings.Builder
	s.WriteString("## Many containers\n\n")
	fmt.Fprintf(&s, "`sleep`, %d clients at once over the API, logs on; %s.\n\n| what | budget |", clients, time.Now().UTC().Format("2 January 2006"))
	for _, r := range b.scales {
		fmt.Fprintf(&s, " %s |", r.title)
	}
	s.WriteString("\n|---|---|" + strings.Repeat("---:|", len(b.scales)) + "\n")
	for _, row := range scaleRows {
		fmt.Fprintf(&s, "| %s | %s |", row[0], row[1])
		for _, r := range b.scales {
			fmt.Fprintf(&s, " %s |", r.values[row[0]])
		}
		s.WriteString("\n")
	}
	for _, r := range b.scales {
		for _, n := range r.notes {
			fmt.Fprintf(&s, "\n- %s: %s", r.title, n)
		}
	}
	return s.String() + "\n"
}
