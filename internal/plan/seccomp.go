package plan

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// SeccompCache remembers expanded profiles. Containers with the same profile
// and capabilities share one *specs.LinuxSeccomp, so that whoever compiles it
// can go by the pointer. Nobody changes what it gave out.
type SeccompCache struct {
	mu   sync.Mutex
	made map[string]*specs.LinuxSeccomp
}

// maxProfiles bounds the cache; a profile is some 50 KB.
const maxProfiles = 64

// profile expands source ("" is the built-in one, else JSON) for a process
// with these capabilities.
func (s *SeccompCache) profile(source string, caps []string, f Facts) (*specs.LinuxSeccomp, error) {
	if s == nil {
		return expandProfile(source, caps, f)
	}
	key := strings.Join(slices.Sorted(slices.Values(caps)), ",") + "\x00" + source
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.made[key]; ok {
		return p, nil
	}
	p, err := expandProfile(source, caps, f)
	if err != nil {
		return nil, err
	}
	if s.made == nil || len(s.made) >= maxProfiles {
		s.made = make(map[string]*specs.LinuxSeccomp)
	}
	s.made[key] = p
	return p, nil
}

// archNames: GOARCH to the name that profiles use and the one of the spec.
var archNames = map[string]struct {
	profile string
	spec    specs.Arch
}{
	"386":     {"x86", specs.ArchX86},
	"amd64":   {"amd64", specs.ArchX86_64},
	"arm":     {"arm", specs.ArchARM},
	"arm64":   {"arm64", specs.ArchAARCH64},
	"ppc64le": {"ppc64le", specs.ArchPPC64LE},
	"riscv64": {"riscv64", specs.ArchRISCV64},
	"s390x":   {"s390x", specs.ArchS390X},
}

// expandProfile chooses the rules that count for the architecture, the kernel
// and the capabilities. nil: the profile filters nothing.
func expandProfile(source string, caps []string, f Facts) (*specs.LinuxSeccomp, error) {
	p := seccomp.DefaultProfile()
	if source != "" {
		p = &seccomp.Seccomp{}
		if err := json.Unmarshal([]byte(source), p); err != nil {
			return nil, invalid("Decoding seccomp profile failed: %s", err)
		}
	}
	if p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return nil, nil
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, invalid("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'")
	}
	out := p.LinuxSeccomp
	arch := archNames[f.Arch]
	for _, a := range p.ArchMap {
		if a.Arch == arch.spec {
			out.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	kernel := kernelNumber(f.Kernel)
	for _, call := range p.Syscalls {
		if call == nil || !counts(call, arch.profile, kernel, caps) {
			continue
		}
		names := call.Names
		if call.Name != "" {
			if len(names) > 0 {
				return nil, invalid("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")
			}
			names = []string{call.Name}
		}
		rule := call.LinuxSyscall
		rule.Names = names
		out.Syscalls = append(out.Syscalls, rule)
	}
	return &out, nil
}

// counts evaluates a rule's conditions.
func counts(call *seccomp.Syscall, arch string, kernel [2]uint64, caps []string) bool {
	newer := func(v *seccomp.KernelVersion) bool {
		return kernel[0] > v.Kernel || kernel[0] == v.Kernel && kernel[1] >= v.Major
	}
	if x := call.Excludes; x != nil {
		if slices.Contains(x.Arches, arch) || x.MinKernel != nil && newer(x.MinKernel) {
			return false
		}
		for _, c := range x.Caps {
			if slices.Contains(caps, c) {
				return false
			}
		}
	}
	if in := call.Includes; in != nil {
		if len(in.Arches) > 0 && !slices.Contains(in.Arches, arch) || in.MinKernel != nil && !newer(in.MinKernel) {
			return false
		}
		for _, c := range in.Caps {
			if !slices.Contains(caps, c) {
				return false
			}
		}
	}
	return true
}

// kernelNumber reads "6.18.5-cloud" as 6, 18.
func kernelNumber(release string) (n [2]uint64) {
	parts := strings.SplitN(release, ".", 3)
	for i := 0; i < len(parts) && i < 2; i++ {
		digits := strings.TrimRight(parts[i], "abcdefghijklmnopqrstuvwxyz-+_")
		n[i], _ = strconv.ParseUint(digits, 10, 16)
	}
	return n
}
