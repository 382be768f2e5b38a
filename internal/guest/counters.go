package guest

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
)

// stats reads the container's counters.
func (a *Agent) stats(c *call) error {
	s, err := a.group.Stats()
	if err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	out := &guestapi.Stats{Docker: data, Networks: networks()}
	out.OOMKills, _ = a.group.OOM()
	return c.reply(guestapi.Reply{Stats: out})
}

// networks reads /proc/net/dev: two lines of titles, then "eth0: " and sixteen
// numbers.
func networks() map[string]guestapi.Network {
	text, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil
	}
	out := map[string]guestapi.Network{}
	for line := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(rest)
		if !ok || name == "lo" || len(f) < 16 {
			continue
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
		out[name] = guestapi.Network{RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11]}
	}
	return out
}

// maxTop is how many processes are told of: what the host makes of them has
// to stay small.
const maxTop = 4096

// top lists the container's processes.
func (a *Agent) top(c *call) error {
	pids, err := a.group.Pids()
	if err != nil {
		return err
	}
	t := &guestapi.Top{Files: map[string][]byte{}}
	for _, name := range []string{"uptime", "meminfo"} {
		t.Files[name], _ = os.ReadFile("/proc/" + name)
	}
	size := 0
	for _, pid := range pids {
		if len(t.Pids) == maxTop || size > guestapi.MaxTop-3*4096 {
			break
		}
		dir := strconv.Itoa(pid)
		ok := true
		for _, name := range []string{"/stat", "/status", "/cmdline"} {
			data, err := os.ReadFile("/proc/" + dir + name)
			ok = ok && err == nil
			t.Files[dir+name] = data[:min(len(data), 4096)]
			size += len(t.Files[dir+name])
		}
		if ok {
			t.Pids = append(t.Pids, pid)
		}
	}
	return c.reply(guestapi.Reply{Top: t})
}

// update changes limits of the container's cgroup.
func (a *Agent) update(c *call) error {
	if c.req.Update == nil {
		return invalid("there is nothing to update")
	}
	var r specs.LinuxResources
	if err := decode(c.req.Update.Resources, "resources", &r); err != nil {
		return err
	}
	if err := a.group.Update(&r); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

func (a *Agent) pause(c *call) error  { return a.freeze(c, true) }
func (a *Agent) resume(c *call) error { return a.freeze(c, false) }

func (a *Agent) freeze(c *call, on bool) error {
	f := a.group.Thaw
	if on {
		f = a.group.Freeze
	}
	if err := f(); err != nil {
		return err
	}
	a.mu.Lock()
	a.paused = on
	a.mu.Unlock()
	return c.reply(guestapi.Reply{})
}

// memory is the machine's.
func memory() (m guestapi.Memory) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			m.Total = n << 10
		case "MemFree:":
			m.Free = n << 10
		case "MemAvailable:":
			m.Available = n << 10
		}
	}
	return m
}

func onlineCPUs() (n int) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "cpu") && len(line) > 3 && line[3] >= '0' && line[3] <= '9' {
			n++
		}
	}
	return n
}
