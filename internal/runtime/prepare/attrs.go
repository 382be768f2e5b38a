package prepare

import (
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

// capNames are the kernel's capabilities by number.
var capNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

var capBits = func() map[string]uint64 {
	m := make(map[string]uint64, len(capNames))
	for i, n := range capNames {
		m["CAP_"+n] = 1 << i
	}
	return m
}()

// capMask leaves out names that it does not know: a newer kernel's, say.
func capMask(names []string, warn func(string, ...any)) (mask uint64) {
	for _, n := range names {
		bit, ok := capBits[strings.ToUpper(n)]
		if !ok {
			warn("unknown capability %q; left out", n)
			continue
		}
		mask |= bit
	}
	return mask
}

func capabilities(c *specs.LinuxCapabilities, warn func(string, ...any)) (*runtime.Caps, error) {
	if c == nil {
		return nil, nil
	}
	var out runtime.Caps
	for _, set := range []struct {
		to    *uint64
		names []string
	}{
		{&out.Bounding, c.Bounding}, {&out.Effective, c.Effective}, {&out.Permitted, c.Permitted},
		{&out.Inheritable, c.Inheritable}, {&out.Ambient, c.Ambient},
	} {
		*set.to = capMask(set.names, warn)
	}
	for i, n := range capNames {
		if out.Ambient&(1<<i) != 0 && out.Permitted&out.Inheritable&(1<<i) == 0 {
			warn("can't raise ambient capability CAP_%s: it is not permitted and inheritable", n)
		}
	}
	return &out, nil
}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4,
	specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
	specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20,
	specs.SchedFlagUtilClampMax: 0x40,
}

func scheduler(s *specs.Scheduler) (*runtime.Sched, error) {
	if s == nil {
		return nil, nil
	}
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		return nil, refuse("unknown scheduler policy %q", s.Policy)
	}
	out := &runtime.Sched{Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	switch s.Policy {
	case specs.SchedFIFO, specs.SchedRR:
	default:
		if s.Priority != 0 {
			return nil, refuse("scheduler priority %d is for SCHED_FIFO and SCHED_RR only", s.Priority)
		}
	}
	if s.Policy != specs.SchedDeadline && s.Runtime|s.Deadline|s.Period != 0 {
		return nil, refuse("scheduler runtime, deadline and period are for SCHED_DEADLINE only")
	}
	for _, f := range s.Flags {
		bit, ok := schedFlags[f]
		if !ok {
			return nil, refuse("unknown scheduler flag %q", f)
		}
		out.Flags |= bit
	}
	return out, nil
}

func ioPriority(p *specs.LinuxIOPriority) (*int, error) {
	if p == nil {
		return nil, nil
	}
	classes := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[p.Class]
	if !ok {
		return nil, refuse("unknown I/O priority class %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return nil, refuse("I/O priority %d is not in the range 0-7", p.Priority)
	}
	v := class<<13 | p.Priority
	return &v, nil
}

func personality(p *specs.LinuxPersonality) (*uint64, error) {
	if p == nil {
		return nil, nil
	}
	if len(p.Flags) > 0 {
		return nil, refuse("personality flag %q (the spec defines none)", p.Flags[0])
	}
	var v uint64
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		v = perLinux32
	default:
		return nil, refuse("unknown personality %q", p.Domain)
	}
	return &v, nil
}

// affinity parses a CPU list ("0-3,7") to a mask.
func affinity(list string) ([]uint64, error) {
	if list == "" {
		return nil, nil
	}
	var mask []uint64
	for _, part := range strings.Split(list, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.Atoi(lo)
		to := from
		if err == nil && isRange {
			to, err = strconv.Atoi(hi)
		}
		if err != nil || from < 0 || to < from || to > 8191 {
			return nil, refuse("CPU affinity %q", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			for len(mask) <= cpu/64 {
				mask = append(mask, 0)
			}
			mask[cpu/64] |= 1 << (cpu % 64)
		}
	}
	return mask, nil
}

const perLinux32 = 0x8 // PER_LINUX32 of personality(2)
