package prepare

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	perform "wharf/internal/runtime"
)

// seccomp compiles a profile, or takes the filter from the cache.
func seccomp(s *specs.LinuxSeccomp) (sec *perform.Seccomp, listener, metadata string, err error) {
	if s == nil {
		return nil, "", "", nil
	}
	key := seccompKey(s)
	if v, ok := filters.Load(key); ok {
		return v.(*perform.Seccomp), s.ListenerPath, s.ListenerMetadata, nil
	}
	sec, err = compileSeccomp(s, runtime.GOARCH)
	if err != nil {
		return nil, "", "", fmt.Errorf("seccomp: %w", err)
	}
	if sec != nil && sec.Notify && s.ListenerPath == "" {
		return nil, "", "", refuse("seccomp: SCMP_ACT_NOTIFY needs a listenerPath")
	}
	if filterCount.Add(1) > 1000 { // profiles are few; whoever makes up many must not fill memory
		filters.Clear()
		filterCount.Store(0)
	}
	filters.Store(key, sec)
	return sec, s.ListenerPath, s.ListenerMetadata, nil
}

var (
	filters     sync.Map // seccompKey -> *perform.Seccomp
	filterCount atomic.Int32
)

// seccompKey is the profile's content, hashed.
func seccompKey(s *specs.LinuxSeccomp) [sha256.Size]byte {
	b := make([]byte, 0, 16<<10)
	str := func(v string) { b = append(append(b, v...), 0) }
	num := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	opt := func(v *uint) {
		if v == nil {
			b = append(b, 0)
			return
		}
		b = append(b, 1)
		num(uint64(*v))
	}
	str(string(s.DefaultAction))
	opt(s.DefaultErrnoRet)
	for _, a := range s.Architectures {
		str(string(a))
	}
	str("")
	for _, f := range s.Flags {
		str(string(f))
	}
	str("")
	for i := range s.Syscalls {
		c := &s.Syscalls[i]
		for _, n := range c.Names {
			str(n)
		}
		str("")
		str(string(c.Action))
		opt(c.ErrnoRet)
		num(uint64(len(c.Args)))
		for _, a := range c.Args {
			num(uint64(a.Index))
			num(a.Value)
			num(a.ValueTwo)
			str(string(a.Op))
		}
	}
	return sha256.Sum256(b)
}

// AUDIT_ARCH_* values, as a filter sees them.
const (
	auditX86_64  = 0xc000003e
	auditI386    = 0x40000003
	auditAARCH64 = 0xc00000b7
	auditARM     = 0x40000028
)

// section is the part of a filter for one AUDIT_ARCH value.
type section struct {
	audit uint32
	rules map[uint32][]rule // by system call number
	limit uint32            // highest number that the profile knows
	x32   uint32            // the same for x32
	isX32 bool
}

// rule is one entry of the profile for one call: all args have to match.
type rule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

// compileSeccomp makes the filter. nil: the profile allows everything.
func compileSeccomp(s *specs.LinuxSeccomp, goarch string) (*perform.Seccomp, error) {
	def, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	out := &perform.Seccomp{}
	for _, f := range s.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			out.Flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			out.Flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			out.Flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread when it counts
		default:
			return nil, refuse("unknown flag %q", f)
		}
	}
	if def == actAllow && len(s.Syscalls) == 0 {
		return nil, nil
	}
	sections, err := sections(s, goarch)
	if err != nil {
		return nil, err
	}
	for i := range s.Syscalls {
		if s.Syscalls[i].Action == specs.ActNotify {
			if slices.Contains(s.Syscalls[i].Names, "write") { // by which the stage hands the listener over
				return nil, refuse("SCMP_ACT_NOTIFY cannot be used for the write syscall")
			}
			out.Notify = true
		}
		if err := addRules(sections, &s.Syscalls[i], def); err != nil {
			return nil, err
		}
	}
	if s.DefaultAction == specs.ActNotify {
		return nil, refuse("SCMP_ACT_NOTIFY cannot be the default action")
	}
	if !out.Notify {
		out.Flags &^= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	prog := emitFilter(sections, def)
	if len(prog) > 4096 {
		return nil, refuse("the filter has %d instructions; the kernel takes 4096", len(prog))
	}
	for _, in := range prog {
		raw, err := in.Assemble()
		if err != nil {
			return nil, err
		}
		out.Filter = binary.NativeEndian.AppendUint16(out.Filter, raw.Op)
		out.Filter = append(out.Filter, raw.Jt, raw.Jf)
		out.Filter = binary.NativeEndian.AppendUint32(out.Filter, raw.K)
	}
	return out, nil
}

// sections are the architectures that a filter can tell apart, with their own
// one always in.
func sections(s *specs.LinuxSeccomp, goarch string) ([]*section, error) {
	byArch := map[specs.Arch]func() syscallTable{}
	var native specs.Arch
	switch goarch {
	case "amd64":
		native = specs.ArchX86_64
		byArch[specs.ArchX86_64], byArch[specs.ArchX86], byArch[specs.ArchX32] = tableAMD64, table386, tableX32
	case "arm64":
		native = specs.ArchAARCH64
		byArch[specs.ArchAARCH64], byArch[specs.ArchARM] = tableARM64, tableARM
	default:
		return nil, missing("filters for %s", goarch)
	}
	want := map[specs.Arch]bool{native: true}
	for _, a := range s.Architectures {
		want[a] = true // one of another family cannot occur on this machine
	}
	audit := []struct {
		arch  specs.Arch
		audit uint32
	}{
		{specs.ArchX86_64, auditX86_64}, {specs.ArchAARCH64, auditAARCH64},
		{specs.ArchX86, auditI386}, {specs.ArchARM, auditARM},
	}
	var out []*section
	for _, a := range audit {
		if byArch[a.arch] != nil && want[a.arch] {
			out = append(out, &section{audit: a.audit, rules: map[uint32][]rule{}})
		}
	}
	if byArch[specs.ArchX32] != nil && want[specs.ArchX32] {
		out[0].isX32 = true
	}
	return out, nil
}

func (s *section) tables() []syscallTable {
	switch s.audit {
	case auditX86_64:
		if s.isX32 {
			return []syscallTable{tableAMD64(), tableX32()}
		}
		return []syscallTable{tableAMD64()}
	case auditI386:
		return []syscallTable{table386()}
	case auditAARCH64:
		return []syscallTable{tableARM64()}
	}
	return []syscallTable{tableARM()}
}

// addRules adds one entry of the profile. Names that an architecture does not
// have are left out, as every runtime does.
func addRules(sections []*section, c *specs.LinuxSyscall, def uint32) error {
	act, err := action(c.Action, c.ErrnoRet)
	if err != nil {
		return err
	}
	rules, err := entryRules(c, act)
	if err != nil {
		return err
	}
	for _, s := range sections {
		for _, table := range s.tables() {
			for _, name := range c.Names {
				nr, ok := table[name]
				if !ok {
					continue
				}
				if nr&x32Bit != 0 && s.audit == auditX86_64 {
					s.x32 = max(s.x32, nr)
				} else {
					s.limit = max(s.limit, nr)
				}
				if act != def {
					s.rules[nr] = append(s.rules[nr], rules...)
				}
			}
		}
	}
	return nil
}

// entryRules: conditions on different arguments must all hold; several on the
// same argument are alternatives (as runc and Docker's older profiles have
// it).
func entryRules(c *specs.LinuxSyscall, act uint32) ([]rule, error) {
	seen := map[uint]bool{}
	alternatives := false
	for _, a := range c.Args {
		if a.Index > 5 {
			return nil, refuse("argument index %d of %v", a.Index, c.Names)
		}
		if !knownOps[a.Op] {
			return nil, refuse("unknown operator %q of %v", a.Op, c.Names)
		}
		alternatives = alternatives || seen[a.Index]
		seen[a.Index] = true
	}
	if !alternatives {
		return []rule{{args: c.Args, action: act}}, nil
	}
	var out []rule
	for _, a := range c.Args {
		out = append(out, rule{args: []specs.LinuxSeccompArg{a}, action: act})
	}
	return out, nil
}

var knownOps = map[specs.LinuxSeccompOperator]bool{
	specs.OpNotEqual: true, specs.OpLessThan: true, specs.OpLessEqual: true, specs.OpEqualTo: true,
	specs.OpGreaterEqual: true, specs.OpGreaterThan: true, specs.OpMaskedEqual: true,
}

const (
	actAllow   = 0x7fff0000
	actErrno   = 0x00050000
	actKill    = 0x00000000
	retENOSYS  = actErrno | uint32(unix.ENOSYS)
	actMask    = 0xffff0000
	actTrap    = 0x00030000
	actKillAll = 0x80000000
)

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 0xffff {
			return 0, refuse("errnoRet %d", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return actKill, nil
	case specs.ActKillProcess:
		return actKillAll, nil
	case specs.ActTrap:
		return actTrap, nil
	case specs.ActErrno:
		return actErrno | data, nil
	case specs.ActTrace:
		return 0x7ff00000 | data, nil
	case specs.ActLog:
		return 0x7ffc0000, nil
	case specs.ActNotify:
		return 0x7fc00000, nil
	case specs.ActAllow:
		return actAllow, nil
	}
	return 0, refuse("unknown action %q", a)
}

// emitFilter writes the program: the architecture, then a binary search over
// the call's number.
func emitFilter(sections []*section, def uint32) []bpf.Instruction {
	var e emitter
	next := e.ret(actKill) // an architecture that the profile does not name
	for i := len(sections) - 1; i >= 0; i-- {
		s := sections[i]
		e.search(s.spans(def))
		start := e.put(bpf.LoadAbsolute{Off: 0, Size: 4})
		next = e.jump(bpf.JumpEqual, s.audit, start, next)
	}
	e.put(bpf.LoadAbsolute{Off: 4, Size: 4})
	return e.program()
}

// span is a run of system call numbers that are treated alike.
type span struct {
	from  uint32
	rules []rule
	act   uint32 // when no rule matches
}

// base is what happens to a call without rules. Numbers above those that the
// profile knows are newer than it: ENOSYS lets programs fall back, where
// EPERM would break them.
func (s *section) base(nr, def uint32) uint32 {
	newer := def
	switch def & actMask {
	case actErrno, actKill, actTrap, actKillAll:
		newer = retENOSYS
	}
	last := s.limit
	if s.audit == auditX86_64 && nr >= x32Bit {
		if !s.isX32 {
			return actKill
		}
		last = s.x32
	}
	if nr > last {
		return newer
	}
	return def
}

// spans covers all numbers.
func (s *section) spans(def uint32) []span {
	starts := []uint32{0, s.limit + 1}
	if s.audit == auditX86_64 {
		starts = append(starts, x32Bit, s.x32+1)
	}
	for nr := range s.rules {
		starts = append(starts, nr, nr+1)
	}
	sort.Slice(starts, func(i, j int) bool { return starts[i] < starts[j] })
	var out []span
	for i, nr := range starts {
		if i > 0 && nr == starts[i-1] {
			continue
		}
		one := span{from: nr, act: s.base(nr, def), rules: s.rules[nr]}
		one.simplify()
		if n := len(out); n > 0 && len(one.rules) == 0 && len(out[n-1].rules) == 0 && out[n-1].act == one.act {
			continue
		}
		out = append(out, one)
	}
	return out
}

// simplify lets the first rule without conditions end the list.
func (s *span) simplify() {
	for i, r := range s.rules {
		if len(r.args) == 0 {
			s.act, s.rules = r.action, s.rules[:i]
			return
		}
	}
}
