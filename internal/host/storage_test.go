package host

import (
	"os"
	"testing"
)

// On a file system that can be idmapped since before the oldest kernel that we
// know, layers can be: what overlay wants of a mount differs between kernels
// (make vmtest has an old one).
func TestIdmappedLayers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	s := probeStorage(t.TempDir())
	if s.FSType != "ext4" && s.FSType != "xfs" {
		t.Skipf("the directory for tests is on %s: TMPDIR on ext4 or xfs", s.FSType)
	}
	if !s.Overlay || !s.Idmap || !s.OverlayIdmap {
		t.Errorf("%+v", s)
	}
}
