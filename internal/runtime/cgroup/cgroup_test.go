package cgroup

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

var (
	v1 = Layout{V1: map[string]string{"memory": "/cg/memory", "cpu": "/cg/cpu,cpuacct", "cpuacct": "/cg/cpu,cpuacct", "pids": "/cg/pids",
		"cpuset": "/cg/cpuset", "devices": "/cg/devices", "freezer": "/cg/freezer"}}
	v2 = Layout{V2: "/cg", V2Controllers: map[string]bool{"memory": true, "cpu": true, "pids": true, "io": true, "cpuset": true}}
)

func ptr[T any](v T) *T { return &v }

func resources() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(5000)), Cpus: "0-1"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(7))},
		Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}},
	}
}

// flat lists a plan as "dir/file=value".
func flat(c *runtime.Cgroup) (out []string) {
	for _, d := range c.Dirs {
		out = append(out, d.Base+"/"+d.Path)
		for _, w := range d.Writes {
			out = append(out, "  "+w.File+"="+w.Value)
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name string
		l    Layout
		want []string
	}{
		{"v1", v1, []string{"/cg/memory/w/x", "  memory.limit_in_bytes=100", "  memory.memsw.limit_in_bytes=150",
			"/cg/cpu,cpuacct/w/x", "  cpu.shares=1024", "  cpu.cfs_quota_us=5000", "/cg/pids/w/x", "  pids.max=7",
			"/cg/devices/w/x", "/cg/freezer/w/x", "/cg/cpuset/w/x", "  cpuset.cpus=0-1"}},
		{"v2", v2, []string{"/cg/w/x", "  memory.max=100", "  memory.swap.max=50", "  cpu.weight=39", "  cpu.max=5000 100000", "  cpuset.cpus=0-1", "  pids.max=7"}},
	} {
		got, _, err := Plan(&c.l, "w/x", resources())
		if err != nil {
			t.Fatal(c.name, err)
		}
		if d := cmp.Diff(c.want, flat(got)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{"": "wharf/id", "/a/../b": "b", "../../x": "x"} {
		if got, err := Clean(in, "id"); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, bad := range []string{"/", "..", "a.slice:b:c"} {
		if _, err := Clean(bad, "id"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestDeviceProgram runs the eBPF in a small interpreter and compares it with
// the rules themselves.
func TestDeviceProgram(t *testing.T) {
	list := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"},
		{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"},
		{Allow: false, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "w"},
	}
	rules, all, err := deviceRules(list)
	if err != nil || all {
		t.Fatal(err, all)
	}
	prog := deviceProgram(rules, all)
	for kind, letter := range map[int32]byte{1: 'b', 2: 'c'} {
		for _, major := range []int32{1, 5, 8, 10, 136} {
			for _, minor := range []int32{0, 2, 3, 229} {
				for access := int32(1); access < 8; access++ {
					want := false
					for i := len(rules) - 1; i >= 0; i-- {
						r := &rules[i]
						if r.kind != 'a' && r.kind != letter || r.major >= 0 && r.major != int64(major) || r.minor >= 0 && r.minor != int64(minor) {
							continue
						}
						if r.allow && access&^r.mask() == 0 {
							want = true
							break
						}
						if !r.allow && access&r.mask() != 0 {
							break
						}
					}
					if got := interpret(t, prog, access<<16|kind, major, minor); got != want {
						t.Errorf("%c %d:%d access %d: %v, want %v", letter, major, minor, access, got, want)
					}
				}
			}
		}
	}
}

func interpret(t *testing.T, prog []byte, ctx ...int32) bool {
	t.Helper()
	var reg [11]int64
	for pc := 0; ; pc++ {
		in := prog[8*pc:]
		dst, src := in[1]&15, in[1]>>4
		off, imm := int(int16(binary.NativeEndian.Uint16(in[2:]))), int64(int32(binary.NativeEndian.Uint32(in[4:])))
		jump := false
		switch in[0] {
		case 0x61:
			reg[dst] = int64(uint32(ctx[off/4]))
		case 0xbc:
			reg[dst] = reg[src]
		case 0xb7:
			reg[dst] = imm
		case 0x54:
			reg[dst] &= imm
		case 0x74:
			reg[dst] >>= imm
		case 0x5d:
			jump = reg[dst] != reg[src]
		case 0x55:
			jump = reg[dst] != imm
		case 0x15:
			jump = reg[dst] == imm
		case 0x95:
			return reg[0] == 1
		default:
			t.Fatalf("instruction %#x", in[0])
		}
		if jump {
			pc += off
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
	f.Add("36 35 0:30 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate")
	f.Fuzz(func(t *testing.T, line string) {
		l := Layout{V1: map[string]string{}, V2Controllers: map[string]bool{}}
		l.mount(line)
		for c := range l.V1 {
			if strings.Contains(c, ",") {
				t.Error(c)
			}
		}
	})
}
