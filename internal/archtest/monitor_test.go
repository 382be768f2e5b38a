package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxMonitor is the largest that wharf-monitor may be: one runs per container.
const maxMonitor = 4 << 20

// notInMonitor are packages that make the monitor big or slow to start, or
// whose work belongs to whoever plans.
var notInMonitor = []string{
	"net/http",                          // a megabyte, and goroutines
	"crypto/tls",                        // likewise
	"encoding/gob",                      //
	"text/template",                     // keeps every method alive in the linker
	"html/template",                     //
	"regexp",                            // compiled at start-up
	"google.golang.org/grpc",            //
	"google.golang.org/protobuf",        //
	"github.com/opencontainers/cgroups", // groups are computed by runtime/prepare and handed over as writes
	"github.com/opencontainers/selinux", //
	"github.com/containerd/containerd",  //
	"github.com/moby/profiles",          // seccomp is compiled by runtime/prepare
	"github.com/vishvananda/netlink",    //
	"github.com/cilium/ebpf",            //
	"github.com/prometheus",             //
	"go.opentelemetry.io",               //
	"github.com/spf13/cobra",            //
	"wharf/internal/runtime/prepare",    // the planning half
	"wharf/internal/plan",               //
	"wharf/internal/driver",             //
	"github.com/moby/moby/client",       //
	"github.com/docker/cli",             //
}

// TestMonitorImports looks at all that the monitor links.
func TestMonitorImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/wharf-monitor")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		for _, bad := range notInMonitor {
			if dep == bad || strings.HasPrefix(dep, bad+"/") {
				t.Errorf("wharf-monitor links %s", dep)
			}
		}
	}
}

// maxGuest is the largest that wharf-guest may be: it is in the memory of every
// microVM.
const maxGuest = 6 << 20

// TestSizesOfBinaries builds them as `make build` does.
func TestSizesOfBinaries(t *testing.T) {
	if testing.Short() {
		t.Skip("builds binaries; run without -short")
	}
	for name, most := range map[string]int64{"wharf-monitor": maxMonitor, "wharf-guest": maxGuest} {
		out := filepath.Join(t.TempDir(), name)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./cmd/"+name)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, b)
		}
		fi, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KiB", name, fi.Size()>>10)
		if fi.Size() > most {
			t.Errorf("%s is %d KiB, more than %d: see `go build -ldflags=-dumpdep` and notInMonitor", name, fi.Size()>>10, most>>10)
		}
	}
}
