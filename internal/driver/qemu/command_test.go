package qemu

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/model"
)

var update = flag.Bool("update", false, "write the golden files")

func example(m mode) *hardware {
	h := &hardware{binary: "/usr/bin/qemu-system-x86_64", accel: "tcg", cpus: 2, memory: 512 << 20, kernel: "/vm/vmlinux", initrd: "/vm/initrd",
		commandLine: "console=ttyS0 quiet", mode: m, digest: "d",
		taps:  []tap{{link: "wh0123456789ab0"}, {}, {}, {}},
		disks: []disk{{serial: serialRoot, path: "/image", readOnly: true}, {serial: serialWritable, path: "/disk"}}}
	if m == cold {
		h.shares, h.accel = []string{"share0"}, "kvm"
	}
	return h
}

// sharing is a clone with shares.
func sharing(names ...string) *hardware {
	h := example(clone)
	h.shares = names
	return h
}

// ahead is a clone that waits, of a template with a third disk.
func ahead() *hardware {
	h := example(clone)
	h.ahead, h.disks = true, append(h.disks, disk{serial: "volume", path: "/volume", size: 4 << 30})
	return h
}

// The command lines of the three modes, with the descriptors that they name.
func TestCommand(t *testing.T) {
	for name, h := range map[string]*hardware{"cold": example(cold), "template": example(template), "clone": example(clone), "shares": sharing("share0", "share1"), "ahead": ahead()} {
		args, files := h.command()
		var b strings.Builder
		for _, a := range args {
			if strings.HasPrefix(a, "-") {
				b.WriteString("\n")
			}
			b.WriteString(a + " ")
		}
		b.WriteString("\n\n")
		for i, f := range files {
			fmt.Fprintf(&b, "%d %+v\n", 3+i, f)
		}
		at := filepath.Join("testdata", "command."+name)
		if *update {
			if err := os.WriteFile(at, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Errorf("%s (go test -update writes it):\n%s", name, d)
		}
	}
}

// A template has the devices of its clones, in their order: else its state
// does not fit.
func TestTemplateLikeClone(t *testing.T) {
	devices := func(m mode) (out []string) {
		args, _ := example(m).command()
		for i, a := range args {
			if a == "-device" {
				out = append(out, strings.TrimSuffix(strings.TrimSuffix(args[i+1], "=on"), "=off"))
			}
		}
		return out
	}
	if d := cmp.Diff(devices(template), devices(clone)); d != "" {
		t.Error(d)
	}
	if example(clone).key() == "" || example(clone).key() != sharing("share0").key() {
		t.Error("a machine with shares has another template")
	}
}

// Shares of a clone are plugged into the slots that its template's kernel knows
// of, as many as its devices leave free.
func TestLate(t *testing.T) {
	names := make([]string, 15)
	for i := range names {
		names[i] = "share" + strconv.Itoa(i)
	}
	for n, room := range map[int]bool{1: true, 14: true, 15: false} {
		if h := sharing(names[:n]...); h.roomForLate() != room || len(h.late()) != n {
			t.Errorf("%d shares: room %v", n, !room)
		}
	}
	h := sharing("share0", "share1")
	h.disks = append(h.disks, make([]disk, 13)...) // one too many
	if h.roomForLate() {
		t.Error("13 more disks leave room for two shares")
	}
	for i, l := range h.late() {
		var d map[string]any
		if err := json.Unmarshal(l.Device, &d); err != nil || l.Slot != i+1 || d["tag"] != names[i] || d["chardev"] != names[i] {
			t.Errorf("%d: %s %v", l.Slot, l.Device, err)
		}
	}
}

func TestSize(t *testing.T) {
	limit := func(n int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: &n} }
	cpu := func(quota int64) *specs.LinuxCPU {
		period := uint64(100_000)
		return &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	for _, c := range []struct {
		r      specs.LinuxResources
		memory int64
		cpus   int
	}{
		{specs.LinuxResources{}, 512 << 20, 2},
		{specs.LinuxResources{Memory: limit(200 << 20)}, 328 << 20, 2},
		{specs.LinuxResources{Memory: limit(6 << 20)}, 134 << 20, 2},
		{specs.LinuxResources{Memory: limit(200<<20 + 1)}, 330 << 20, 2},
		{specs.LinuxResources{CPU: cpu(50_000)}, 512 << 20, 1},
		{specs.LinuxResources{CPU: cpu(-1)}, 512 << 20, 2},
	} {
		if memory, cpus := size(&c.r, 512<<20, 2); memory != c.memory || cpus != c.cpus {
			t.Errorf("%+v: %d MiB, %d processors", c.r, memory>>20, cpus)
		}
	}
}

// The first endpoint with a gateway has the default route of its family.
func TestInterfaces(t *testing.T) {
	ep := func(name, addr, gw string) model.Endpoint {
		s := &network.EndpointSettings{IPAddress: netip.MustParseAddr(addr), IPPrefixLen: 16, MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}}
		if gw != "" {
			s.Gateway = netip.MustParseAddr(gw)
		}
		return model.Endpoint{Network: name, Interface: name, Tap: true, MTU: 1400, Settings: s}
	}
	got, err := interfaces([]model.Endpoint{ep("eth0", "10.1.0.2", ""), ep("eth1", "10.2.0.2", "10.2.0.1"), ep("eth2", "10.3.0.2", "10.3.0.1"), {Network: "none"}})
	if err != nil {
		t.Fatal(err)
	}
	one := func(name, addr string, routes ...guestapi.Route) guestapi.Interface {
		return guestapi.Interface{MAC: "02:00:00:00:00:01", Name: name, MTU: 1400, Addresses: []string{addr}, Routes: routes}
	}
	want := []guestapi.Interface{one("eth0", "10.1.0.2/16"), one("eth1", "10.2.0.2/16", guestapi.Route{Gateway: "10.2.0.1"}), one("eth2", "10.3.0.2/16")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Disks that a template's guest has looked at are of one size in all clones.
func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	h := &hardware{disks: []disk{{serial: serialRoot, path: filepath.Join(dir, "root")}, {serial: serialWritable, path: filepath.Join(dir, "rw")},
		{serial: serialVolume + "0", path: filepath.Join(dir, "volume")}}}
	for i, size := range []int64{4096, 100 << 30, 8192} {
		if err := os.WriteFile(h.disks[i].path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(h.disks[i].path, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.measure(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{diskSize, 100 << 30, 8192} {
		if st, err := os.Stat(h.disks[i].path); err != nil || st.Size() != want || h.disks[i].size != want {
			t.Errorf("%s: %d, the file has %d, want %d (%v)", h.disks[i].serial, h.disks[i].size, st.Size(), want, err)
		}
	}
	h.disks[0].path = filepath.Join(dir, "gone")
	if h.measure() == nil {
		t.Error("a disk that is not there has a size")
	}
}
