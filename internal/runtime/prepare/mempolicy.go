package prepare

import (
	"math/bits"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

// Values of set_mempolicy(2).
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
	specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// memoryPolicy reads a NUMA policy, of which the kernel would only say EINVAL.
func memoryPolicy(p *specs.LinuxMemoryPolicy) (*runtime.MemPolicy, error) {
	if p == nil {
		return nil, nil
	}
	mode, ok := memoryModes[p.Mode]
	if !ok {
		return nil, refuse("invalid memory policy mode %q", p.Mode)
	}
	out := &runtime.MemPolicy{Mode: mode}
	for _, f := range p.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return nil, refuse("invalid memory policy flag %q", f)
		}
		out.Mode |= bit
	}
	var err error
	if out.Nodes, err = affinity(p.Nodes); err != nil || len(out.Nodes) > 16 { // MAX_NUMNODES
		return nil, refuse("invalid memory policy node list %q", p.Nodes)
	}
	n := 0
	for _, w := range out.Nodes {
		n += bits.OnesCount64(w)
	}
	if none := p.Mode == specs.MpolDefault || p.Mode == specs.MpolLocal; none && n > 0 {
		return nil, refuse("invalid memory policy: %s mode requires 0 nodes but got %d", p.Mode, n)
	} else if !none && n == 0 && p.Mode != specs.MpolPreferred {
		return nil, refuse("invalid memory policy: %s mode requires nodes", p.Mode)
	}
	return out, nil
}
