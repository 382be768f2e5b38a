package plan

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// TestInherited: limits that this daemon cannot raise are said at create,
// since a start has no warnings.
func TestInherited(t *testing.T) {
	f := full()
	f.Inherited = &Inherited{Hard: map[int]uint64{unix.RLIMIT_NOFILE: 1000, unix.RLIMIT_CORE: ^uint64(0)}}
	hc := func(name string, soft, hard int64, oom int) *container.HostConfig {
		return &container.HostConfig{OomScoreAdj: oom, Resources: container.Resources{
			Ulimits: []*container.Ulimit{{Name: name, Soft: soft, Hard: hard}},
		}}
	}
	for _, c := range []struct {
		hc   *container.HostConfig
		want []string
	}{
		{hc("nofile", 1000, 1000, 0), nil},
		{hc("core", -1, -1, 500), nil},
		{hc("nofile", 10, 1001, 0), []string{"Ulimit nofile=10:1001 cannot be raised above the daemon's own hard limit of 1000"}},
		{hc("nofile", -1, -1, -1), []string{"Ulimit nofile=-1:-1", "OOM score adjustment -1 cannot go below"}},
	} {
		_, warn := create(t, input(nil, c.hc), f, defaults())
		if len(warn) != len(c.want) {
			t.Errorf("%v: %q", c.want, warn)
			continue
		}
		for i, w := range c.want {
			if !strings.HasPrefix(warn[i], w) {
				t.Errorf("%q, want %q", warn[i], w)
			}
		}
	}
	f.Inherited = nil
	if _, warn := create(t, input(nil, hc("nofile", -1, -1, -1)), f, defaults()); len(warn) != 0 {
		t.Errorf("%q", warn)
	}
}
