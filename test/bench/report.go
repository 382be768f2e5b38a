package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// columns are the engines in the order of the table.
var columns = []string{"floor", "wharf", "wharf CLI", "docker", "podman", "crun", "runc"}

// section marks what one section of the bench writes, so that it can be
// measured and replaced alone. What stands outside of all marks is a person's.
func section(name, text string) string {
	return "<!-- " + name + ": written by make bench -->\n" + strings.TrimSpace(text) + "\n<!-- /" + name + " -->\n"
}

// replace puts a section into a page, at its place or at the end.
func replace(page, name, text string) string {
	begin, end := "<!-- "+name+":", "<!-- /"+name+" -->\n"
	i := strings.Index(page, begin)
	j := strings.Index(page, end)
	if i < 0 || j < i {
		return strings.TrimRight(page, "\n") + "\n\n" + section(name, text)
	}
	return page[:i] + section(name, text) + page[j+len(end):]
}

// write prints what was measured and puts it into the page.
func (b *bench) write() error {
	pages := [][2]string{{"main", ""}, {"network", b.networkReport()}, {"build", b.buildReport()}, {"vm", b.vmReport()}, {"scale", b.scaleReport()}}
	if b.whole {
		pages[0][1] = b.report()
	}
	var page []byte
	if b.out != "" {
		var err error
		if page, err = os.ReadFile(b.out); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	text := string(page)
	for _, p := range pages {
		if p[1] != "" {
			fmt.Print(p[1] + "\n")
			text = replace(text, p[0], p[1])
		}
	}
	if b.out == "" {
		return nil
	}
	return os.WriteFile(b.out, []byte(text), 0o644)
}

// report is the table of single verbs.
func (b *bench) report() string {
	var s strings.Builder
	s.WriteString("## Single verbs\n\nMedians of " + fmt.Sprint(b.rounds) +
		" rounds in which the engines took turns; a ratio is the peer's figure divided by wharf's.\n\n")
	b.machine(&s)
	used := b.used()
	s.WriteString("\n| what |")
	for _, c := range used {
		fmt.Fprintf(&s, " %s |", c)
	}
	s.WriteString(" docker / wharf |\n|---|" + strings.Repeat("---:|", len(used)+1) + "\n")
	for _, f := range b.rows {
		fmt.Fprintf(&s, "| %s |", f.name)
		for _, c := range used {
			if v, ok := f.values[c]; ok {
				fmt.Fprintf(&s, " %s |", amount(v, f.unit))
			} else {
				s.WriteString(" |")
			}
		}
		s.WriteString(ratio(f) + "\n")
	}
	s.WriteString(`
- wharf and docker are driven by the same stock docker CLI over their own sockets; "wharf CLI" is the same command by our own.
- Everything that is on by default is on: user namespace, seccomp, bridge network with masquerading, log, durable record.
- floor: an overlay, new namespaces, the usual mounts and exec of /bin/true by a static Go program; no network, user
  namespace, limits, filter, log or record. It is what the kernel asks for a container here.
- crun and runc run a bundle that lies ready, with neither network nor image nor log. On a machine with hybrid control groups crun
  and podman are started by nsenter in a mount namespace without the version 2 mount (about a millisecond).
- Memory is proportional set size: shared pages count by share.
`)
	return s.String()
}

// used are the columns that have a figure.
func (b *bench) used() []string {
	var used []string
	for _, c := range columns {
		for _, f := range b.rows {
			if _, ok := f.values[c]; ok {
				used = append(used, c)
				break
			}
		}
	}
	return used
}

func amount(v float64, unit string) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func ratio(f figure) string {
	ours, theirs := f.values["wharf"], f.values["docker"]
	if ours == 0 || theirs == 0 {
		return " |"
	}
	r := theirs / ours
	if f.more {
		r = ours / theirs
	}
	return fmt.Sprintf(" %.1f |", r)
}

// machine says where the figures come from.
func (b *bench) machine(s *strings.Builder) {
	var u unix.Utsname
	_ = unix.Uname(&u)
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown"
	for line := range strings.Lines(string(cpu)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	fmt.Fprintf(s, "Machine: %s, %d CPUs, %d GiB, kernel %s, %s.\n", model, runtime.NumCPU(),
		info.Totalram*uint64(info.Unit)>>30, unix.ByteSliceToString(u.Release[:]), time.Now().UTC().Format("2 January 2006"))
	fmt.Fprintf(s, "Load average when it ended: %.1f", float64(info.Loads[0])/65536)
	s.WriteString(" (the bench alone makes about 1; more means that others used the machine too).\n")
	fmt.Fprintf(s, "Versions: wharf %s", b.wharf.version)
	if b.dockerd != nil {
		fmt.Fprintf(s, ", docker daemon %s", b.dockerd.version)
	}
	for _, tool := range []string{b.docker, b.podman, b.crun, b.runc} {
		if tool != "" {
			out, _ := exec.Command(tool, "--version").Output()
			line, _, _ := strings.Cut(string(out), "\n")
			fmt.Fprintf(s, ", %s", line)
		}
	}
	s.WriteString(".\n")
}
