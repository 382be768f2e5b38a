package build

import (
	"runtime/debug"

	bkversion "github.com/moby/buildkit/version"
)

// tellVersion gives BuildKit its own version, which it knows from a linker's
// flag only: buildx shows it and decides by it what it may ask for.
func tellVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, m := range info.Deps {
		if m.Path == bkversion.Package && m.Version != "" {
			bkversion.Version = m.Version
		}
	}
}
