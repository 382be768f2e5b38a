package prepare

import (
	"encoding/binary"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"

	perform "wharf/internal/runtime"
)

// evaluate runs a compiled filter on one call and returns its verdict and the
// number of instructions executed. (x/net/bpf's VM reads big endian; the
// kernel reads struct seccomp_data in the machine's order.)
func evaluate(t testing.TB, f *perform.Seccomp, arch, nr uint32, args ...uint64) (verdict uint32, steps int) {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data, nr)
	binary.LittleEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; ; pc++ {
		steps++
		in := f.Filter[8*pc:]
		raw := bpf.RawInstruction{Op: binary.NativeEndian.Uint16(in), Jt: in[2], Jf: in[3], K: binary.NativeEndian.Uint32(in[4:])}
		switch i := raw.Disassemble().(type) {
		case bpf.LoadAbsolute:
			acc = binary.LittleEndian.Uint32(data[i.Off:])
		case bpf.ALUOpConstant:
			acc &= i.Val
		case bpf.Jump:
			pc += int(i.Skip)
		case bpf.RetConstant:
			return i.Val, steps
		case bpf.JumpIf:
			yes := false
			switch i.Cond {
			case bpf.JumpEqual:
				yes = acc == i.Val
			case bpf.JumpNotEqual:
				yes = acc != i.Val
			case bpf.JumpGreaterThan:
				yes = acc > i.Val
			case bpf.JumpGreaterOrEqual:
				yes = acc >= i.Val
			case bpf.JumpLessThan:
				yes = acc < i.Val
			case bpf.JumpLessOrEqual:
				yes = acc <= i.Val
			default:
				t.Fatalf("condition %v", i.Cond)
			}
			if yes {
				pc += int(i.SkipTrue)
			} else {
				pc += int(i.SkipFalse)
			}
		default:
			t.Fatalf("instruction %#v", i)
		}
	}
}

func compiled(t testing.TB, s *specs.LinuxSeccomp) *perform.Seccomp {
	t.Helper()
	f, err := compileSeccomp(s, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func rules(op specs.LinuxSeccompOperator, v, v2 uint64) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 2, Value: v, ValueTwo: v2, Op: op}}},
		{Names: []string{"close_range"}, Action: specs.ActAllow},
	}}
}

func TestCompare(t *testing.T) {
	const big = 5<<32 | 7
	values := []uint64{0, 6, 7, 8, 4<<32 | 9, 5 << 32, big - 1, big, big + 1, 6 << 32, 1<<63 | 7, ^uint64(0)}
	for op, want := range map[specs.LinuxSeccompOperator]func(a, b uint64) bool{
		specs.OpEqualTo:      func(a, b uint64) bool { return a == b },
		specs.OpNotEqual:     func(a, b uint64) bool { return a != b },
		specs.OpLessThan:     func(a, b uint64) bool { return a < b },
		specs.OpLessEqual:    func(a, b uint64) bool { return a <= b },
		specs.OpGreaterThan:  func(a, b uint64) bool { return a > b },
		specs.OpGreaterEqual: func(a, b uint64) bool { return a >= b },
		specs.OpMaskedEqual:  func(a, b uint64) bool { return a&b == 7 },
	} {
		for _, against := range []uint64{7, big} {
			f := compiled(t, rules(op, against, 7))
			for _, v := range values {
				got, _ := evaluate(t, f, auditX86_64, 0, 1, 2, v)
				if (got == actAllow) != want(v, against) {
					t.Errorf("%s: %#x against %#x: %#x", op, v, against, got)
				}
			}
		}
	}
}

func TestUnknownCallsAndArchitectures(t *testing.T) {
	f := compiled(t, rules(specs.OpEqualTo, 1, 0))
	for _, c := range []struct {
		arch, nr, want uint32
	}{
		{auditX86_64, 436, actAllow},       // close_range
		{auditX86_64, 435, actErrno | 1},   // clone3: known when the profile was written
		{auditX86_64, 450, retENOSYS},      // newer than the profile
		{auditX86_64, x32Bit, actKill},     // x32 was not named
		{auditI386, 3, actKill},            // nor 32 bit
		{auditAARCH64, 63, actKill},        // cannot be
		{auditX86_64, 0xffffffff, actKill}, // out of all ranges
	} {
		if got, _ := evaluate(t, f, c.arch, c.nr); got != c.want {
			t.Errorf("arch %#x call %d: got %#x, want %#x", c.arch, c.nr, got, c.want)
		}
	}
}

// TestLargeFilter crosses the reach of conditional jumps, for every call of
// every architecture.
func TestLargeFilter(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}}
	want := map[string]uint32{}
	i := uint32(0)
	for name := range tableAMD64() {
		i++
		e := uint(2 + i%50)
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &e})
		want[name] = actErrno | uint32(e)
	}
	f := compiled(t, s)
	t.Logf("%d instructions", len(f.Filter)/8)
	for name, w := range want {
		check := func(arch uint32, table syscallTable) {
			if nr, ok := table[name]; ok {
				if got, steps := evaluate(t, f, arch, nr); got != w || steps > 40 {
					t.Errorf("%s on %#x: got %#x, want %#x; %d steps", name, arch, got, w, steps)
				}
			}
		}
		check(auditX86_64, tableAMD64())
		check(auditX86_64, tableX32())
		check(auditI386, table386())
	}
}

func TestRefused(t *testing.T) {
	for _, s := range []*specs.LinuxSeccomp{
		{DefaultAction: "SCMP_ACT_MAYBE"},
		{DefaultAction: specs.ActErrno, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NONE"}},
		{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: "?"}}},
		{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
		{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Op: "SCMP_CMP_?"}}}}},
	} {
		if _, _, _, err := seccomp(s); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
