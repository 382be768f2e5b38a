package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// vmRow compares one thing in a virtual machine with the same in a container
// of wharf's and of docker's.
type vmRow struct {
	what, unit            string
	vm, container, docker float64
}

// vmIdle is the memory that the idle machines get.
const vmIdle = "256m"

// measureVM is what a machine costs beside a container.
func (b *bench) measureVM() error {
	if err := b.cli(b.wharf, "run", "--rm", "--isolation", "vm", "-m", vmIdle, "busybox", "true"); err != nil {
		fmt.Fprintln(os.Stderr, "bench: no virtual machines:", err)
		return nil
	}
	if err := b.vmTemplate(); err != nil {
		return err
	}
	for _, step := range []func() error{b.vmStart, b.vmInside, b.vmNetwork, b.vmImage, b.vmMany} {
		if err := step(); err != nil {
			return fmt.Errorf("vm: %w", err)
		}
	}
	return nil
}

// vmTemplate waits until machines are cloned: the template of their size is
// made behind the first start.
func (b *bench) vmTemplate() error {
	for end := time.Now().Add(8 * time.Minute); time.Now().Before(end); {
		time.Sleep(10 * time.Second)
		id, err := b.cliOut(b.wharf, "run", "-d", "--isolation", "vm", "-m", vmIdle, "busybox", "sleep", "100000")
		if err != nil {
			return err
		}
		timing, err := b.commandOut(filepath.Join(b.bin, "wharf"), b.wharf, "inspect", "--timing", id)
		if err := errors.Join(err, b.cli(b.wharf, "rm", "-f", id)); err != nil {
			return err
		}
		if strings.Contains(timing, "clone resumes") || strings.Contains(timing, "machine goes on") {
			return nil
		}
	}
	return errors.New("no machine was cloned within eight minutes")
}

// vmRounds is how often each thing is measured: once with -quick.
func (b *bench) vmRounds() int { return max(1, b.rounds/4) }

// timed is the median time of n runs of f, in milliseconds.
func timed(n int, f func() error) (float64, error) {
	var all []float64
	for range n {
		begin := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		all = append(all, float64(time.Since(begin).Microseconds())/1000)
	}
	return median(all), nil
}

// vmCompare takes a row; args is the command line for one isolation. before, if
// there is one, is done before each start of a machine.
func (b *bench) vmCompare(what string, n int, output bool, before func() error, args func(isolation ...string) []string) error {
	one := func(e *engine, isolation ...string) (float64, error) {
		var all []float64
		for range n {
			if before != nil && len(isolation) > 0 {
				if err := before(); err != nil {
					return 0, err
				}
			}
			begin := time.Now()
			var err error
			var took time.Duration
			if output {
				took, err = b.toOutput(e, args(isolation...)...)
			} else {
				err = b.cli(e, args(isolation...)...)
				took = time.Since(begin)
			}
			if err != nil {
				return 0, err
			}
			all = append(all, float64(took.Microseconds())/1000)
		}
		return median(all), nil
	}
	row := vmRow{what: what, unit: "ms"}
	var err error
	if row.vm, err = one(b.wharf, "--isolation", "vm", "-m", vmIdle); err != nil {
		return err
	}
	if row.container, err = one(b.wharf); err != nil {
		return err
	}
	if b.dockerd != nil {
		if row.docker, err = one(b.dockerd); err != nil {
			return err
		}
	}
	b.addVM(row)
	return nil
}

func (b *bench) addVM(r vmRow) {
	b.vms = append(b.vms, r)
	fmt.Fprintf(os.Stderr, "vm: %+v\n", r)
}

// readyTime is how long the making of a machine that is kept ready may take
// when nothing else goes on.
const readyTime = 8 * time.Second

// takeReady takes the machine that is ready: the next start is a clone.
func (b *bench) takeReady() error {
	time.Sleep(readyTime)
	return b.cli(b.wharf, "run", "--rm", "--isolation", "vm", "-m", vmIdle, "busybox", "true")
}

// vmStart is from the command to its first output, and to its end. A machine
// with a bind is a clone, and never the one that is kept ready.
func (b *bench) vmStart() error {
	share := filepath.Join(b.dir, "share")
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	for _, c := range []struct {
		what   string
		binds  []string
		output bool
		before func() error
	}{
		{"first output, with a bind", []string{"-v", share + ":/s"}, true, nil},
		{"first output, cloned from a template", nil, true, b.takeReady},
		{"first output, in the machine that is kept ready", nil, true, func() error { time.Sleep(readyTime); return nil }},
		{"`docker run --rm`, with a bind", []string{"-v", share + ":/s"}, false, nil},
		{"`docker run --rm`, cloned from a template", nil, false, b.takeReady},
		{"`docker run --rm`, in the machine that is kept ready", nil, false, func() error { time.Sleep(readyTime); return nil }},
	} {
		err := b.vmCompare(c.what, b.vmRounds(), c.output, c.before, func(iso ...string) []string {
			return append(append(append([]string{"run", "--rm"}, c.binds...), iso...), "busybox", "echo", "hi")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// toOutput is the time from a command to the first byte of its output.
func (b *bench) toOutput(e *engine, args ...string) (time.Duration, error) {
	cmd := exec.Command(b.docker, args...)
	cmd.Env = b.env(e)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var first [1]byte
	_, err = io.ReadFull(out, first[:])
	took := time.Since(begin)
	_, _ = io.Copy(io.Discard, out)
	return took, errors.Join(err, cmd.Wait())
}

// vmInside runs commands in a machine and in a container that run already.
func (b *bench) vmInside() error {
	names := map[string]*engine{"vm": b.wharf, "container": b.wharf}
	if b.dockerd != nil {
		names["docker"] = b.dockerd
	}
	for name, e := range names {
		args := []string{"run", "-d", "--name", "in-" + name, "-v", "shared:/v"}
		if name == "vm" {
			if err := b.cli(e, "volume", "create", "--opt", "type=block", "--opt", "size=2g", "block"); err != nil {
				return err
			}
			args = append(args, "--isolation", "vm", "-m", vmIdle, "-v", "block:/b")
		}
		if err := b.cli(e, append(args, "busybox", "sleep", "100000")...); err != nil {
			return err
		}
	}
	for _, c := range b.vmWork() {
		row := vmRow{what: c.what, unit: "ms"}
		for name, e := range names {
			if c.only && name != "vm" {
				continue
			}
			v, err := timed(c.n, func() error { return b.cli(e, "exec", "in-"+name, "sh", "-c", c.script) })
			if err != nil {
				return err
			}
			*row.of(name) = v
		}
		b.addVM(row)
	}
	return nil
}

// work is a script that is run by exec.
type work struct {
	what, script string
	n            int
	only         bool // in a machine: nothing else has such a place
}

// vmWork is what is done inside; first is exec itself, which is a part of each.
func (b *bench) vmWork() []work {
	few := min(3, b.vmRounds())
	out := []work{
		{"exec of true", "true", b.vmRounds(), false},
		{"64 MiB of output through exec", "dd if=/dev/zero bs=1M count=64 2>/dev/null", few, false},
		{"a processor's work: sum of 64 MiB", "dd if=/dev/zero bs=1M count=64 2>/dev/null | md5sum", few, false},
	}
	for _, at := range []struct {
		name, dir string
		only      bool
	}{{"the root", "/", false}, {"a volume (virtiofs in a machine)", "/v/", false}, {"a volume with type=block", "/b/", true}} {
		out = append(out,
			work{"64 MiB written to " + at.name + " and synced", "dd if=/dev/zero of=" + at.dir + "$HOSTNAME bs=1M count=64 conv=fsync 2>/dev/null", few, at.only},
			work{"2,000 files made and removed in " + at.name,
				"mkdir " + at.dir + "$HOSTNAME.d && cd " + at.dir + "$HOSTNAME.d && i=0; while [ $i -lt 2000 ]; do : >f$i; i=$((i+1)); done; rm -r " + at.dir + "$HOSTNAME.d", few, at.only})
	}
	return out
}

func (r *vmRow) of(name string) *float64 {
	return map[string]*float64{"vm": &r.vm, "container": &r.container, "docker": &r.docker}[name]
}

// vmNetwork sends to a container on the same network.
func (b *bench) vmNetwork() error {
	defer func() {
		for _, name := range []string{"vm", "container"} {
			_ = b.cli(b.wharf, "rm", "-f", "in-"+name)
		}
		if b.dockerd != nil {
			_ = b.cli(b.dockerd, "rm", "-f", "in-docker")
		}
	}()
	row := vmRow{what: "256 MiB fetched by TCP from a container", unit: "ms"}
	for _, name := range []string{"vm", "container", "docker"} {
		e := b.wharf
		if name == "docker" {
			if e = b.dockerd; e == nil {
				continue
			}
		}
		var all []float64
		for range min(3, b.vmRounds()) {
			took, err := b.fetch(e, "in-"+name)
			if err != nil {
				return err
			}
			all = append(all, float64(took.Microseconds())/1000)
		}
		*row.of(name) = median(all)
	}
	b.addVM(row)
	return nil
}

// vmImage reads an image of some thousand files: EROFS in a machine, the
// host's page cache for the others.
func (b *bench) vmImage() error {
	row := vmRow{what: "every file of a Debian image read", unit: "ms"}
	for _, name := range []string{"vm", "container", "docker"} {
		e, args := b.wharf, []string{"run", "-d", "--name", "image-" + name}
		switch {
		case name == "vm":
			args = append(args, "--isolation", "vm", "-m", vmIdle)
		case name == "docker":
			if e = b.dockerd; e == nil {
				continue
			}
		}
		if name != "container" {
			if err := b.cli(e, "load", "-q", "-i", filepath.Join(b.images, "debian.tar")); err != nil {
				return err
			}
		}
		if err := b.cli(e, append(args, "debian:bookworm", "sleep", "100000")...); err != nil {
			return err
		}
		v, err := timed(min(2, b.vmRounds()), func() error {
			return b.cli(e, "exec", "image-"+name, "sh", "-c", "find / -xdev -type f -exec cat {} + >/dev/null 2>&1; true")
		})
		if err := errors.Join(err, b.cli(e, "rm", "-f", "image-"+name)); err != nil {
			return err
		}
		*row.of(name) = v
	}
	b.addVM(row)
	return nil
}

// fetch has the container to read 256 MiB that another one serves; wget fails
// when it got less. (nc of busybox sends a packet for each KiB, and ends when its
// peer has nothing to say.)
func (b *bench) fetch(e *engine, to string) (time.Duration, error) {
	err := b.cli(e, "run", "-d", "--name", "source", "busybox", "sh", "-c", "mkdir /s; dd if=/dev/zero of=/s/f bs=1M count=256 2>/dev/null; echo . >/s/up; exec httpd -f -p 9000 -h /s")
	if err != nil {
		return 0, err
	}
	defer func() { _ = b.cli(e, "rm", "-f", "source") }()
	ip, err := b.cliOut(e, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "source")
	if err != nil {
		return 0, err
	}
	get := "wget -q -O /dev/null http://" + ip + ":9000/"
	if err := b.cli(e, "exec", to, "sh", "-c", "for i in $(seq 100); do "+get+"up && exit; sleep 0.1; done; exit 1"); err != nil {
		return 0, err
	}
	begin := time.Now()
	err = b.cli(e, "exec", to, "sh", "-c", get+"f")
	return time.Since(begin), err
}

// vmMany is memory of one and of eight machines, and eight starts at once.
func (b *bench) vmMany() error {
	row := vmRow{what: "eight at once, until all run", unit: "ms"}
	var err error
	for iso, to := range map[string]*float64{"vm": &row.vm, "container": &row.container} {
		args := []string{"run", "-d"}
		if iso == "vm" {
			args = append(args, "--isolation", "vm", "-m", vmIdle)
		}
		ids := make([]string, 8)
		begin := time.Now()
		if ids[0], err = b.cliOut(b.wharf, append(args, "busybox", "sleep", "100000")...); err != nil {
			return err
		}
		if iso == "vm" {
			time.Sleep(3 * time.Second)
			b.addVM(vmRow{what: "memory of one idle machine of 256 MiB (PSS of all its processes)", unit: "MiB", vm: tree(ids[:1])})
			begin = time.Now()
		}
		var wg sync.WaitGroup
		failed := make([]error, len(ids))
		for i := range ids[1:] {
			wg.Go(func() { ids[i+1], failed[i+1] = b.cliOut(b.wharf, append(args, "busybox", "sleep", "100000")...) })
		}
		wg.Wait()
		*to = float64(time.Since(begin).Milliseconds())
		if iso == "vm" {
			time.Sleep(3 * time.Second)
			b.addVM(vmRow{what: "the same, each of eight clones", unit: "MiB", vm: tree(ids) / 8})
		}
		for i, id := range ids {
			if failed[i] != nil {
				return failed[i]
			}
			if err := b.cli(b.wharf, "rm", "-f", id); err != nil {
				return err
			}
		}
	}
	b.addVM(row)
	return nil
}

// tree is the memory in MiB of the holders of instances and of all processes
// below them.
func tree(ids []string) float64 {
	table := processTable()
	in := map[int]bool{}
	for _, pid := range holders(ids) {
		in[pid] = true
	}
	for grown := true; grown; {
		grown = false
		for pid, p := range table {
			if in[p.parent] && !in[pid] {
				in[pid], grown = true, true
			}
		}
	}
	var sum float64
	for pid := range in {
		sum += pss(pid)
	}
	return sum
}

func (b *bench) vmReport() string {
	if len(b.vms) == 0 {
		return ""
	}
	accel, _ := b.commandOut(filepath.Join(b.bin, "wharf"), b.wharf, "doctor")
	how := "unknown"
	for line := range strings.Lines(accel) {
		if strings.Contains(strings.ToLower(line), "accelerator") {
			how = strings.TrimSpace(line)
			break
		}
	}
	s := "## Virtual machines\n\nMedians by the stock docker CLI; every machine has 256 MiB. The accelerator here: " + how + "\n\n" +
		"| what | vm | container | docker |\n|---|---:|---:|---:|\n"
	cell := func(v float64, unit string) string {
		if v == 0 {
			return ""
		}
		return amount(v, unit)
	}
	for _, r := range b.vms {
		s += fmt.Sprintf("| %s | %s | %s | %s |\n", r.what, cell(r.vm, r.unit), cell(r.container, r.unit), cell(r.docker, r.unit))
	}
	return s
}
