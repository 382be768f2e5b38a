package build

import (
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/disk"
)

// GC bounds the build cache. The zero value has BuildKit's bounds: a share of
// the disk.
type GC struct {
	Off      bool
	Reserved int64 // bytes that are always kept
	Max      int64 // bytes that the cache may use at most
	MinFree  int64 // bytes of the disk that should stay free
	Policies []Policy
}

// Policy is one rule; they are applied in order.
type Policy struct {
	Filters                []string
	All                    bool
	KeepFor                time.Duration
	Reserved, Max, MinFree int64
}

// policies are GC's rules in BuildKit's form.
func (g GC) policies(root string) []client.PruneInfo {
	if g.Off {
		return nil
	}
	if len(g.Policies) > 0 {
		out := make([]client.PruneInfo, len(g.Policies))
		for i, p := range g.Policies {
			out[i] = client.PruneInfo{
				All: p.All, Filter: p.Filters, KeepDuration: p.KeepFor,
				ReservedSpace: p.Reserved, MaxUsedSpace: p.Max, MinFreeSpace: p.MinFree,
			}
		}
		return out
	}
	stat, err := disk.GetDiskStat(root)
	if err != nil {
		stat = disk.DiskStat{}
	}
	cfg := config.GCConfig{}
	for _, v := range []struct {
		to   *config.DiskSpace
		from int64
	}{{&cfg.GCReservedSpace, g.Reserved}, {&cfg.GCMaxUsedSpace, g.Max}, {&cfg.GCMinFreeSpace, g.MinFree}} {
		v.to.Bytes = v.from
	}
	var out []client.PruneInfo
	for _, p := range config.DefaultGCPolicy(cfg, stat) {
		out = append(out, client.PruneInfo{
			All: p.All, Filter: p.Filters, KeepDuration: p.KeepDuration.Duration,
			ReservedSpace: p.ReservedSpace.AsBytes(stat), MaxUsedSpace: p.MaxUsedSpace.AsBytes(stat), MinFreeSpace: p.MinFreeSpace.AsBytes(stat),
		})
	}
	return out
}
