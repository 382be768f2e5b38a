package main

import (
	"fmt"
	"os"
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
	time.Sleep(20 * time.Second) // the template of this size is made behind
	for _, step := range []func() error{b.vmStart, b.vmInside, b.vmNetwork, b.vmMany} {
		if err := step(); err != nil {
			return fmt.Errorf("vm: %w", err)
		}
	}
	return nil
}

func (b *bench) vmRounds() int { return max(3, b.rounds/4) }

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

// vmCompare takes a row; args is the command line for one isolation.
func (b *bench) vmCompare(what string, n int, args func(isolation ...string) []string) error {
	row := vmRow{what: what, unit: "ms"}
	var err error
	if row.vm, err = timed(n, func() error { return b.cli(b.wharf, args("--isolation", "vm", "-m", vmIdle)...) }); err != nil {
		return err
	}
	if row.container, err = timed(n, func() error { return b.cli(b.wharf, args()...) }); err != nil {
		return err
	}
	if b.dockerd != nil {
		if row.docker, err = timed(n, func() error { return b.cli(b.dockerd, args()...) }); err != nil {
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

// vmStart is from the command to its first output. A machine with a bind is
// never cloned.
func (b *bench) vmStart() error {
	share := filepath.Join(b.dir, "share")
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	err := b.vmCompare("docker run --rm with a bind (cold start)", b.vmRounds(), func(iso ...string) []string {
		return append(append([]string{"run", "--rm", "-v", share + ":/s"}, iso...), "busybox", "echo", "hi")
	})
	if err != nil {
		return err
	}
	return b.vmCompare("docker run --rm (cloned from a template)", b.vmRounds(), func(iso ...string) []string {
		return append(append([]string{"run", "--rm"}, iso...), "busybox", "echo", "hi")
	})
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
			args = append(args, "--isolation", "vm", "-m", vmIdle)
		}
		if err := b.cli(e, append(args, "busybox", "sleep", "100000")...); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		what, script string
		n            int
	}{
		{"exec of true", "true", b.vmRounds()},
		{"64 MiB of output through exec", "dd if=/dev/zero bs=1M count=64 2>/dev/null", 3},
		{"64 MiB written to the root and synced", "dd if=/dev/zero of=/f bs=1M count=64 conv=fsync 2>/dev/null", 3},
		{"64 MiB written to a volume and synced", "dd if=/dev/zero of=/v/$HOSTNAME bs=1M count=64 conv=fsync 2>/dev/null", 3},
		{"2,000 files made and removed in the root", "mkdir /m && cd /m && i=0; while [ $i -lt 2000 ]; do : >f$i; i=$((i+1)); done; rm -r /m", 3},
		{"2,000 files made and removed in a volume", "mkdir /v/$HOSTNAME.d && cd /v/$HOSTNAME.d && i=0; while [ $i -lt 2000 ]; do : >f$i; i=$((i+1)); done; rm -r /v/$HOSTNAME.d", 3},
		{"a processor's work: sum of 64 MiB", "dd if=/dev/zero bs=1M count=64 2>/dev/null | md5sum", 3},
	} {
		row := vmRow{what: c.what, unit: "ms"}
		for name, e := range names {
			v, err := timed(c.n, func() error { return b.cli(e, "exec", "in-"+name, "sh", "-c", c.script) })
			if err != nil {
				return err
			}
			*map[string]*float64{"vm": &row.vm, "container": &row.container, "docker": &row.docker}[name] = v
		}
		b.addVM(row)
	}
	return nil
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
	row := vmRow{what: "256 MiB sent by TCP to a container", unit: "ms"}
	for name, to := range map[string]*float64{"vm": &row.vm, "container": &row.container} {
		v, err := timed(3, func() error { return b.sendTo("in-" + name) })
		if err != nil {
			return err
		}
		*to = v
	}
	b.addVM(row)
	return nil
}

func (b *bench) sendTo(from string) error {
	if err := b.cli(b.wharf, "run", "-d", "--rm", "--name", "sink", "busybox", "sh", "-c", "nc -l -p 9000 >/dev/null"); err != nil {
		return err
	}
	defer func() { _ = b.cli(b.wharf, "rm", "-f", "sink") }()
	ip, err := b.cliOut(b.wharf, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "sink")
	if err != nil {
		return err
	}
	return b.cli(b.wharf, "exec", from, "sh", "-c", "until dd if=/dev/zero bs=1M count=256 2>/dev/null | nc "+ip+" 9000; do sleep 0.01; done")
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
