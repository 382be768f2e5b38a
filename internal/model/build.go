package model

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
)

// BuildRequest is a POST /build.
type BuildRequest struct {
	ID         string // names the build for a cancel; "" for none
	Session    string // of the client that has files and secrets; "" for none
	Remote     string // URL of the context; "" means the body, "client-session" the session
	Dockerfile string
	Target     string
	Platform   string
	Tags       []string
	Args       map[string]*string // nil values take the daemon's environment: they stay unset
	Labels     map[string]string
	CacheFrom  []string
	ExtraHosts []string
	Network    string
	Ulimits    []*container.Ulimit

	Memory, MemorySwap                     int64
	CPUShares, CPUPeriod, CPUQuota         int64
	CpusetCpus, CpusetMems, CgroupParent   string
	ShmSize                                int64
	NoCache, Pull, Quiet, Squash, BuildKit bool
	Outputs                                []BuildOutput
	Auth                                   map[string]registry.AuthConfig
	HostNetwork                            bool // RUN --network=host is allowed; the room sets it
}

// BuildOutput is where a build's result goes.
type BuildOutput struct {
	Type  string
	Attrs map[string]string
}

// BuildPrune says what of the build cache goes.
type BuildPrune struct {
	All                    bool
	Reserved, Max, MinFree int64 // bytes
	OlderThan              time.Duration
	Filters                []string // BuildKit's
}
