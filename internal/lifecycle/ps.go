package lifecycle

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"wharf/internal/model"
)

// psView reads processes from a /proc.
type psView struct {
	proc   fs.FS
	ids    model.IDRange
	now    time.Time
	boot   time.Time
	memory uint64 // bytes
}

// process is what ps knows of one process; see proc_pid_stat(5).
type process struct {
	pid, ppid, pgid, sid, threads  int
	nice, prio                     int
	state, comm, cmd, tty          string
	uid, ruid, gid, rgid           uint32
	vsz, rss                       uint64 // bytes
	ticks                          uint64 // CPU time
	begun                          uint64 // ticks after boot
	started                        time.Time
	elapsed                        time.Duration
	memory                         uint64 // the machine's
	sessionLeader, locked, thready bool
	foreground                     bool
}

func newPSView(proc fs.FS, ids model.IDRange, now time.Time) *psView {
	v := &psView{proc: proc, ids: ids, now: now, boot: now}
	if text, err := fs.ReadFile(proc, "uptime"); err == nil {
		if f := bytes.Fields(text); len(f) > 0 {
			up, _ := strconv.ParseFloat(string(f[0]), 64)
			v.boot = now.Add(-time.Duration(up * float64(time.Second)))
		}
	}
	if text, err := fs.ReadFile(proc, "meminfo"); err == nil {
		if f := bytes.Fields(text); len(f) > 1 {
			kib, _ := strconv.ParseUint(string(f[1]), 10, 64)
			v.memory = kib * 1024
		}
	}
	return v
}

// read reads one process.
func (v *psView) read(pid int) (*process, error) {
	dir := strconv.Itoa(pid)
	stat, err := fs.ReadFile(v.proc, dir+"/stat")
	if err != nil {
		return nil, err
	}
	p, err := parsePidStat(stat)
	if err != nil {
		return nil, err
	}
	p.pid, p.memory = pid, v.memory
	p.started = v.boot.Add(time.Duration(p.begun * clockTick))
	p.elapsed = max(v.now.Sub(p.started), 0)
	if status, err := fs.ReadFile(v.proc, dir+"/status"); err == nil {
		v.owners(p, status)
	}
	if cmd, err := fs.ReadFile(v.proc, dir+"/cmdline"); err == nil {
		p.cmd = printable(string(bytes.ReplaceAll(bytes.TrimRight(cmd, "\x00"), []byte{0}, []byte(" "))))
	}
	if p.cmd == "" {
		p.cmd = "[" + p.comm + "]"
	}
	return p, nil
}

// parsePidStat reads /proc/PID/stat. The name in brackets may hold anything,
// brackets and newlines too: the last bracket counts.
func parsePidStat(text []byte) (*process, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return nil, fmt.Errorf("stat %q: no name in brackets", text)
	}
	f := strings.Fields(string(text[end+1:]))
	if len(f) < 22 {
		return nil, fmt.Errorf("stat %q: %d fields, want at least 22", text, len(f))
	}
	n := func(i int) int { // field i as in the manual page, 3 is the first after the name
		v, _ := strconv.ParseInt(f[i-3], 10, 64)
		return int(v)
	}
	p := &process{
		comm: printable(string(text[open+1 : end])), state: f[0], ppid: n(4), pgid: n(5), sid: n(6),
		tty: ttyName(n(7)), prio: n(18), nice: n(19), threads: n(20), ticks: uint64(n(14) + n(15)),
		vsz: uint64(n(23)), rss: uint64(n(24)) * 4096, begun: uint64(n(22)),
	}
	p.sessionLeader = strconv.Itoa(p.sid) == strings.TrimSpace(string(text[:open]))
	p.thready, p.foreground = p.threads > 1, n(7) != 0 && n(8) == p.pgid
	return p, nil
}

// ttyName names a device number: the unix98 pseudo terminals are majors
// 136 to 143.
func ttyName(dev int) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return "pts/" + strconv.Itoa((major-136)<<20|minor)
	case major == 4 && minor < 64:
		return "tty" + strconv.Itoa(minor)
	case major == 4:
		return "ttyS" + strconv.Itoa(minor-64)
	}
	return "?"
}

// owners reads the ids as they are inside, and VmLck.
func (v *psView) owners(p *process, status []byte) {
	for line := range strings.Lines(string(status)) {
		key, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		switch {
		case key == "Uid" && len(f) >= 2:
			p.ruid, p.uid = v.inside(f[0]), v.inside(f[1])
		case key == "Gid" && len(f) >= 2:
			p.rgid, p.gid = v.inside(f[0]), v.inside(f[1])
		case key == "VmLck" && len(f) >= 1:
			p.locked = f[0] != "0"
		}
	}
}

// inside maps a host id to the container's; 65534 is nobody, as the kernel
// shows ids without a mapping.
func (v *psView) inside(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 65534
	}
	id := uint32(n)
	switch {
	case !v.ids.Mapped():
		return id
	case id >= v.ids.Host && id-v.ids.Host < v.ids.Size:
		return id - v.ids.Host
	}
	return 65534
}

// printable replaces control characters, which a process may put into its
// name to confuse a reader's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
