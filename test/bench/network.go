package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netFigure is a transfer: bits a second, and what a gigabyte takes of the
// processors (both sockets' work and the kernel's between them), which other
// work on the machine changes less.
type netFigure struct{ rate, cpu float64 }

// netFigures are the network section's medians.
type netFigures struct{ bare, neighbour, named, published netFigure }

const netSeconds = 1 // of each single transfer

// measureNetwork is TCP between containers and through a published port,
// beside a bare veth pair on a bridge: the same two sockets and one sender,
// in namespaces without rules or names.
func (b *bench) measureNetwork() error {
	if b.only != "" && !strings.Contains("network", b.only) {
		return nil
	}
	bare, err := bareNetwork()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer bare.end()
	defer b.endNetContainers()
	pids, neighbour, err := b.netContainers()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	ns := func(i int) string { return "/proc/" + pids[i] + "/ns/net" }
	rows, cpu := map[string][]float64{}, map[string][]float64{}
	for range max(3, b.rounds/4) {
		for _, t := range []struct{ name, from, to, addr string }{
			{"bare", bare.ns("a"), bare.ns("b"), "10.198.0.3:5201"},
			{"neighbour", ns(3), ns(2), neighbour + ":5201"},
			{"named", ns(0), ns(1), "10.199.0.11:5201"},
			{"published", bare.ns("w"), ns(2), "203.0.113.1:5201"},
		} {
			v, err := transfer(t.from, t.to, t.addr)
			if err != nil {
				return fmt.Errorf("network: %s: %w", t.name, err)
			}
			rows[t.name], cpu[t.name] = append(rows[t.name], v.rate), append(cpu[t.name], v.cpu)
		}
	}
	figure := func(name string) netFigure { return netFigure{median(rows[name]), median(cpu[name])} }
	b.network = &netFigures{bare: figure("bare"), neighbour: figure("neighbour"), named: figure("named"), published: figure("published")}
	fmt.Fprintf(os.Stderr, "network: %+v\n", *b.network)
	return nil
}

// netContainers starts two containers on a network with names and two on the
// default bridge; it returns their processes and the third one's address.
func (b *bench) netContainers() (pids []string, neighbour string, err error) {
	e := b.wharf
	if err := b.cli(e, "network", "create", "--subnet", "10.199.0.0/24", "bench"); err != nil {
		return nil, "", err
	}
	for _, c := range [][]string{
		{"--name", "net-a", "--network", "bench", "--ip", "10.199.0.10"},
		{"--name", "net-b", "--network", "bench", "--ip", "10.199.0.11"},
		{"--name", "net-c", "-p", "203.0.113.1:5201:5201"},
		{"--name", "net-d"},
	} {
		if err := b.cli(e, append(append([]string{"run", "-d"}, c...), "busybox", "sleep", "100000")...); err != nil {
			return nil, "", err
		}
		pid, err := b.cliOut(e, "inspect", "-f", "{{.State.Pid}}", c[1])
		if err != nil {
			return nil, "", err
		}
		pids = append(pids, strings.TrimSpace(pid))
	}
	neighbour, err = b.cliOut(e, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "net-c")
	return pids, strings.TrimSpace(neighbour), err
}

func (b *bench) endNetContainers() {
	_ = b.cli(b.wharf, "rm", "-f", "net-a", "net-b", "net-c", "net-d")
	_ = b.cli(b.wharf, "network", "rm", "bench")
}

// networkReport is the section of the page.
func (b *bench) networkReport() string {
	f := b.network
	if f == nil {
		return ""
	}
	row := func(what string, v, of netFigure, budget string) string {
		if budget != "" {
			budget = fmt.Sprintf("%.0f %% of %s; processor %.0f %%", 100*v.rate/of.rate, budget, 100*v.cpu/of.cpu)
		}
		return fmt.Sprintf("| %s | %.1f Gbit/s | %.0f ms | %s |\n", what, v.rate/1e9, 1000*v.cpu, budget)
	}
	return "## Network\n\nOne TCP connection, medians; a sender and a receiver of the bench's own in the namespaces. The bare bridge is in a namespace without any rules.\n\n" +
		"| what | figure | processor a GB | of |\n|---|---:|---:|---|\n" +
		row("bare veth pairs on a bridge", f.bare, f.bare, "") +
		row("container to container, default bridge", f.neighbour, f.bare, "bare (budget: 95 %)") +
		row("container to container, network with names", f.named, f.bare, "bare (budget: 95 %)") +
		row("from another machine by a published port", f.published, f.neighbour, "container to container (budget: 90 %)")
}

// bareNet is two namespaces on a bridge in a third, where no rule is (bridged
// packets meet the rules of their bridge's namespace where br_netfilter is),
// and one that plays another machine behind a veth of its own, 203.0.113.2.
type bareNet struct{ cmds map[string]*exec.Cmd }

func bareNetwork() (_ *bareNet, err error) {
	n := &bareNet{cmds: map[string]*exec.Cmd{}}
	defer func() {
		if err != nil {
			n.end()
		}
	}()
	for _, name := range []string{"a", "b", "h", "w"} {
		cmd := exec.Command("sleep", "100000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		n.cmds[name] = cmd
	}
	script := fmt.Sprintf("nsenter -t %d -n sh -ec '", n.cmds["h"].Process.Pid) +
		"ip link add bare0 type bridge && ip link set bare0 up && ip addr add 10.198.0.1/24 dev bare0\n"
	for _, name := range []string{"a", "b"} {
		script += fmt.Sprintf("ip link add bare%s type veth peer name eth0 netns %d && ip link set bare%s master bare0 up\n", name, n.cmds[name].Process.Pid, name)
	}
	script += "'\n"
	for i, name := range []string{"a", "b"} {
		script += fmt.Sprintf("nsenter -t %d -n sh -c 'ip link set lo up; ip addr add 10.198.0.%d/24 dev eth0; ip link set eth0 up'\n", n.cmds[name].Process.Pid, i+2)
	}
	script += fmt.Sprintf("ip link add benchwan type veth peer name eth0 netns %[1]d && ip addr add 203.0.113.1/24 dev benchwan && ip link set benchwan up && "+
		"nsenter -t %[1]d -n sh -c 'ip link set lo up; ip addr add 203.0.113.2/24 dev eth0; ip link set eth0 up'\n", n.cmds["w"].Process.Pid)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return n, nil
}

func (n *bareNet) ns(name string) string {
	return fmt.Sprintf("/proc/%d/ns/net", n.cmds[name].Process.Pid)
}

func (n *bareNet) end() {
	for _, c := range n.cmds {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// inNetns runs f with the thread in the namespace. The thread comes back: one
// that ended would take what it started with it (Pdeathsig).
func inNetns(path string, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = own.Close() }()
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return errors.Join(f(), unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
}

// transfer sends from one namespace to another for a while: what arrives.
func transfer(from, to, addr string) (none netFigure, _ error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return none, err
	}
	var l net.Listener
	if err := inNetns(to, func() (err error) { l, err = net.Listen("tcp", ":"+port); return err }); err != nil {
		return none, err
	}
	defer func() { _ = l.Close() }()
	var c net.Conn
	if err := inNetns(from, func() (err error) { c, err = net.DialTimeout("tcp", addr, 2*time.Second); return err }); err != nil {
		return none, err
	}
	defer func() { _ = c.Close() }()
	sent := make(chan struct{})
	_ = c.SetDeadline(time.Now().Add((netSeconds + 1) * time.Second))
	go func() {
		defer close(sent)
		for buf := make([]byte, 256<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	s, err := l.Accept()
	if err != nil {
		return none, err
	}
	var total int64
	buf := make([]byte, 256<<10)
	began, before := time.Now(), processorSeconds()
	_ = s.SetReadDeadline(began.Add(netSeconds * time.Second))
	for {
		n, err := s.Read(buf)
		total += int64(n)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return none, err
			}
			break
		}
	}
	took, cpu := time.Since(began).Seconds(), processorSeconds()-before
	_ = s.Close()
	<-sent
	return netFigure{rate: float64(total) * 8 / took, cpu: cpu / (float64(total) / 1e9)}, nil
}

func processorSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
