package plan

import "fmt"

// Inherited are limits of the daemon's own that it cannot raise, since it has
// no CAP_SYS_RESOURCE.
type Inherited struct {
	OOMScoreAdj int
	Hard        map[int]uint64 // by RLIMIT_ number (getrlimit(2)); ^0 is infinity
}

// inherited warns of limits that will stay as they are: the kernel refuses
// them at the start, and the container starts nevertheless.
func (cr *creation) inherited() error {
	in := cr.f.Inherited
	if in == nil {
		return nil
	}
	for _, u := range cr.hc.Ulimits {
		rl, err := u.GetRlimit()
		if err != nil {
			return invalid("%s", err)
		}
		if have, ok := in.Hard[rl.Type]; ok && rl.Hard > have {
			cr.warnf(fmt.Sprintf("Ulimit %s cannot be raised above the daemon's own hard limit of %d, since the daemon has no CAP_SYS_RESOURCE. Limit discarded.", u, have))
		}
	}
	if a := cr.hc.OomScoreAdj; a < in.OOMScoreAdj && a != 0 {
		cr.warnf(fmt.Sprintf("OOM score adjustment %d cannot go below the daemon's own %d, since the daemon has no CAP_SYS_RESOURCE. Adjustment discarded.", a, in.OOMScoreAdj))
	}
	return nil
}
