package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// psFormat is the list of columns that ps was asked for.
type psFormat []psColumn

type psColumn struct {
	title string
	value func(*process) string
}

func (f psFormat) titles() []string {
	out := make([]string, len(f))
	for i, c := range f {
		out[i] = c.title
	}
	return out
}

func (f psFormat) row(p *process) []string {
	out := make([]string, len(f))
	for i, c := range f {
		out[i] = c.value(p)
	}
	return out
}

// psColumns are the columns that -o knows, with ps's names for them.
var psColumns = map[string]psColumn{
	"user":   {"USER", func(p *process) string { return userName(p.uid) }},
	"ruser":  {"RUSER", func(p *process) string { return userName(p.ruid) }},
	"uid":    {"UID", func(p *process) string { return number(p.uid) }},
	"ruid":   {"RUID", func(p *process) string { return number(p.ruid) }},
	"group":  {"GROUP", func(p *process) string { return userName(p.gid) }},
	"rgroup": {"RGROUP", func(p *process) string { return userName(p.rgid) }},
	"gid":    {"GID", func(p *process) string { return number(p.gid) }},
	"rgid":   {"RGID", func(p *process) string { return number(p.rgid) }},
	"pid":    {"PID", func(p *process) string { return number(p.pid) }},
	"ppid":   {"PPID", func(p *process) string { return number(p.ppid) }},
	"pgid":   {"PGID", func(p *process) string { return number(p.pgid) }},
	"sid":    {"SID", func(p *process) string { return number(p.sid) }},
	"nlwp":   {"NLWP", func(p *process) string { return number(p.threads) }},
	"ni":     {"NI", func(p *process) string { return number(p.nice) }},
	"pri":    {"PRI", func(p *process) string { return number(39 - p.prio) }},
	"s":      {"S", func(p *process) string { return p.state }},
	"stat":   {"STAT", stat},
	"c":      {"C", func(p *process) string { return number(int(cpuShare(p))) }},
	"pcpu":   {"%CPU", func(p *process) string { return fmt.Sprintf("%.1f", cpuShare(p)) }},
	"pmem":   {"%MEM", memShare},
	"vsz":    {"VSZ", func(p *process) string { return number(p.vsz / 1024) }},
	"rss":    {"RSS", func(p *process) string { return number(p.rss / 1024) }},
	"tty":    {"TT", func(p *process) string { return p.tty }},
	"stime":  {"STIME", stime},
	"start":  {"STARTED", func(p *process) string { return p.started.Local().Format("15:04:05") }},
	"lstart": {"STARTED", func(p *process) string { return p.started.Local().Format("Mon Jan _2 15:04:05 2006") }},
	"etime":  {"ELAPSED", func(p *process) string { return elapsed(p.elapsed) }},
	"etimes": {"ELAPSED", func(p *process) string { return number(int(p.elapsed.Seconds())) }},
	"time":   {"TIME", cpuTime},
	"comm":   {"COMMAND", func(p *process) string { return p.comm }},
	"args":   {"COMMAND", func(p *process) string { return p.cmd }},
}

// psAliases are further names of the same columns.
var psAliases = map[string]string{
	"euser": "user", "euid": "uid", "egid": "gid", "egroup": "group", "pgrp": "pgid", "sess": "sid", "session": "sid", "thcount": "nlwp",
	"nice": "ni", "state": "s", "cpu": "c", "%cpu": "pcpu", "%mem": "pmem", "vsize": "vsz", "rssize": "rss", "rsz": "rss", "tt": "tty",
	"tname": "tty", "cputime": "time", "start_time": "stime", "ucmd": "comm", "ucomm": "comm", "cmd": "args", "command": "args",
}

// psTitles override the title of some aliases, as ps does.
var psTitles = map[string]string{
	"euser": "EUSER", "euid": "EUID", "cmd": "CMD", "ucmd": "CMD", "state": "S", "sess": "SESS", "session": "SESS", "thcount": "THCNT",
	"tname": "TTY", "pgrp": "PGRP", "start_time": "START",
}

// named is a column under another title.
func named(title, name string) psColumn { return psColumn{title, psColumns[name].value} }

// The formats behind ps's letters.
var (
	psFull = psFormat{
		named("UID", "user"), psColumns["pid"], psColumns["ppid"], psColumns["c"], psColumns["stime"], named("TTY", "tty"), psColumns["time"], named("CMD", "args"),
	}
	psUser = psFormat{
		psColumns["user"], psColumns["pid"], psColumns["pcpu"], psColumns["pmem"], psColumns["vsz"], psColumns["rss"], named("TTY", "tty"),
		psColumns["stat"], {"START", stime}, {"TIME", bsdTime}, psColumns["args"],
	}
	psShort = psFormat{psColumns["pid"], named("TTY", "tty"), psColumns["time"], named("CMD", "comm")}
	psBSD   = psFormat{psColumns["pid"], named("TTY", "tty"), psColumns["stat"], {"TIME", bsdTime}, psColumns["args"]}
)

// parsePS reads ps's arguments: -e -f -A and the like, BSD's a u x w, and
// -o/o with columns. Selection letters mean nothing: it is always the
// container's processes. What is not known is refused.
func parsePS(args string) (psFormat, error) {
	if strings.TrimSpace(args) == "" {
		return psFull, nil
	}
	var chosen psFormat
	full, user, bsd := false, false, false
	words := strings.Fields(args)
	for i := 0; i < len(words); i++ {
		w := words[i]
		letters, dashed := strings.CutPrefix(w, "-")
		if list, rest, ok := psList(letters, words[i+1:]); ok {
			cols, err := psPick(list)
			if err != nil {
				return nil, err
			}
			chosen = append(chosen, cols...)
			i += len(words[i+1:]) - len(rest)
			continue
		}
		for _, l := range letters {
			switch {
			case dashed && strings.ContainsRune("eAawwx", l): // which processes, and how wide
			case dashed && l == 'f':
				full = true
			case strings.ContainsRune("axw", l):
				bsd = bsd || !dashed
			case l == 'u':
				user = true
			default:
				return nil, invalid("ps %s: %q is not supported; use -ef, aux, or -o with columns like pid,user,args", args, string(l))
			}
		}
	}
	switch {
	case chosen != nil:
		return chosen, nil
	case user:
		return psUser, nil
	case full:
		return psFull, nil
	case bsd:
		return psBSD, nil
	}
	return psShort, nil
}

// psList recognises o and its list: "-o pid,args", "-opid", "-eo pid",
// "--format=pid". rest is what follows the words used.
func psList(letters string, after []string) (list string, rest []string, ok bool) {
	if v, found := strings.CutPrefix(letters, "-format"); found {
		if v, found = strings.CutPrefix(v, "="); found {
			return v, after, true
		}
		letters = "o"
	}
	before, v, found := strings.Cut(letters, "o")
	if !found || strings.Trim(before, "eAaxwf") != "" {
		return "", nil, false
	}
	if v != "" {
		return v, after, true
	}
	if len(after) == 0 {
		return "", after, true
	}
	return after[0], after[1:], true
}

// psPick turns "pid,user=NAME" into columns.
func psPick(list string) (psFormat, error) {
	if list == "" {
		return nil, invalid("ps: -o needs columns, like pid,user,args")
	}
	var out psFormat
	for list != "" {
		one, rest, _ := strings.Cut(list, ",")
		name, title, titled := strings.Cut(one, "=")
		if titled { // the rest of the list is the title
			title, rest = strings.TrimPrefix(list, name+"="), ""
		}
		key := name
		if a, ok := psAliases[name]; ok {
			key = a
		}
		c, ok := psColumns[key]
		if !ok {
			return nil, invalid("ps: unknown column %q", name)
		}
		if t := psTitles[name]; t != "" {
			c.title = t
		}
		if titled {
			c.title = title
		}
		out = append(out, c)
		list = rest
	}
	return out, nil
}

func number[T int | uint32 | uint64](n T) string { return fmt.Sprint(n) }

// userName names root; other names are the image's own affair, and reading
// its passwd from outside is not.
func userName(id uint32) string {
	if id == 0 {
		return "root"
	}
	return number(id)
}

func cpuShare(p *process) float64 {
	secs := p.elapsed.Seconds()
	if secs < 0.01 {
		return 0
	}
	return min(float64(p.ticks)/secs, 999) // a tick is a hundredth of a second
}

func memShare(p *process) string {
	if p.memory == 0 {
		return "0.0"
	}
	return fmt.Sprintf("%.1f", 100*float64(p.rss)/float64(p.memory))
}

// stime is the time of day for today's, the day for older processes.
func stime(p *process) string {
	t := p.started.Local()
	switch now := p.started.Add(p.elapsed).Local(); {
	case t.Year() != now.Year():
		return t.Format("2006")
	case t.YearDay() != now.YearDay():
		return t.Format("Jan02")
	}
	return t.Format("15:04")
}

func cpuTime(p *process) string {
	s := int(p.ticks / 100)
	if d := s / 86400; d > 0 {
		return fmt.Sprintf("%d-%02d:%02d:%02d", d, s/3600%24, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func bsdTime(p *process) string {
	s := int(p.ticks / 100)
	return strconv.Itoa(s/60) + fmt.Sprintf(":%02d", s%60)
}

func elapsed(d time.Duration) string {
	s := int(d.Seconds())
	switch {
	case s >= 86400:
		return fmt.Sprintf("%d-%02d:%02d:%02d", s/86400, s/3600%24, s/60%60, s%60)
	case s >= 3600:
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// stat is the state with ps's flags.
func stat(p *process) string {
	out := p.state
	switch {
	case p.nice < 0:
		out += "<"
	case p.nice > 0:
		out += "N"
	}
	for _, f := range []struct {
		on   bool
		flag string
	}{{p.locked, "L"}, {p.sessionLeader, "s"}, {p.thready, "l"}, {p.foreground, "+"}} {
		if f.on {
			out += f.flag
		}
	}
	return out
}
