package network

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// The tests that touch the kernel run in a network namespace of their own:
// TestMain starts the test binary again in one.
const inNamespace = "WHARF_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdout, cmd.Stderr, cmd.Stdin = os.Stdout, os.Stderr, os.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start the tests in a network namespace:", err)
		}
		os.Exit(1)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, for a network namespace of its own: sudo go test ./internal/network/")
	}
}

// open opens a room in the test's namespace and clears the namespace at the end.
func open(t testing.TB, o Options) *Room {
	t.Helper()
	needRoot(t)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	sh(t, "ip link set lo up")
	r, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wipe(t, r)
	})
	return r
}

func wipe(t testing.TB, r *Room) {
	links := sh(t, "ip -o link | sed 's/^[0-9]*: //; s/[:@].*//'")
	for _, l := range strings.Fields(links) {
		if l != "lo" {
			_ = exec.Command("ip", "link", "del", l).Run()
		}
	}
	_ = exec.Command("nft", "flush", "ruleset").Run()
}

func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// box is a namespace pair with a process in it, as a container has.
type box struct {
	t   testing.TB
	id  model.ID
	cmd *exec.Cmd
}

func newBox(t testing.TB) *box {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000000, Size: 65536}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, id: model.NewID(), cmd: cmd}
	t.Cleanup(b.kill)
	return b
}

func (b *box) kill() {
	if b.cmd.ProcessState == nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
}

func (b *box) netns() string { return fmt.Sprintf("/proc/%d/ns/net", b.cmd.Process.Pid) }

// run runs a command in the box's network namespace.
func (b *box) run(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"--net=" + b.netns()}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *box) must(args ...string) string {
	b.t.Helper()
	out, err := b.run(args...)
	if err != nil {
		b.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

const (
	// patience is how long an answer may take that has to come. The machine may
	// be busy, and the kernel listens for questions after a new IPv6 address a
	// little late: the asker repeats them after a second.
	patience = 20 * time.Second
	// silence is how long one is waited for that must not come.
	silence = time.Second
)

func (b *box) ping(addr string) error { return b.pingWithin(patience, addr) }

func (b *box) pingWithin(d time.Duration, addr string) error {
	out, err := b.run("busybox", "ping", "-c", "1", "-W", strconv.Itoa(int(d/time.Second)), addr)
	if err != nil {
		return fmt.Errorf("ping %s: %w\n%s", addr, err, out)
	}
	return nil
}

func (b *box) request(nets ...string) model.AttachNetworks {
	q := model.AttachNetworks{ID: b.id, Name: "box-" + b.id.Short(), Netns: b.netns(), Want: map[string]*network.EndpointSettings{}}
	for _, n := range nets {
		q.Want[n] = &network.EndpointSettings{}
	}
	return q
}

func attach(t testing.TB, r *Room, q model.AttachNetworks) []model.Endpoint {
	t.Helper()
	eps, err := r.Attach(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return eps
}

func TestTwoContainersOnTheDefaultBridge(t *testing.T) {
	var seen []string
	r := open(t, Options{Publish: func(_ events.Type, a events.Action, _ string, at map[string]string) {
		seen = append(seen, string(a)+" "+at["name"])
	}})
	a, b := newBox(t), newBox(t)
	ea := attach(t, r, a.request("bridge"))
	eb := attach(t, r, b.request("bridge"))
	ip := eb[0].Settings.IPAddress
	if got := eb[0].Settings.MacAddress.String(); got != "02:42:ac:11:00:03" {
		t.Errorf("mac %s for %s", got, ip)
	}
	for _, to := range []string{ip.String(), eb[0].Settings.Gateway.String(), "127.0.0.1"} {
		if err := a.ping(to); err != nil {
			t.Error(err)
		}
	}
	if out := a.must("ip", "-o", "addr", "show", "eth0"); !strings.Contains(out, ea[0].Settings.IPAddress.String()+"/16") || strings.Contains(out, "inet6") {
		t.Errorf("eth0 has %s", out)
	}
	st, err := r.Stats(context.Background(), a.id)
	if err != nil || st["eth0"].TxPackets == 0 || st["eth0"].RxPackets == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	ids, err := r.Attached(context.Background())
	if err != nil || len(ids) != 2 {
		t.Errorf("attached %v, %v", ids, err)
	}
	for _, x := range []*box{a, b} {
		if err := r.Detach(context.Background(), x.id); err != nil {
			t.Error(err)
		}
		if err := r.Detach(context.Background(), x.id); err != nil {
			t.Error("again:", err)
		}
	}
	if got := strings.Join(seen, ","); got != "connect bridge,connect bridge,disconnect bridge,disconnect bridge" {
		t.Errorf("events %s", got)
	}
}

// outside makes a namespace that plays the rest of the world: 203.0.113.2,
// this one is 203.0.113.1 on link wan.
func outside(t testing.TB) *box {
	w := newBox(t)
	sh(t, fmt.Sprintf("ip link add wan type veth peer name eth0 netns %d && ip addr add 203.0.113.1/24 dev wan && ip link set wan up && ip link set lo up", w.cmd.Process.Pid))
	w.must("sh", "-c", "ip addr add 203.0.113.2/24 dev eth0 && ip link set eth0 up && ip link set lo up")
	return w
}

func TestMasqueradeAndItsReturn(t *testing.T) {
	w := outside(t)
	r := open(t, Options{})
	a := newBox(t)
	eps := attach(t, r, a.request("bridge"))
	// The world has no route to 172.17.0.0/16: an answer means translation.
	if err := a.ping("203.0.113.2"); err != nil {
		t.Fatal(err)
	}
	w.must("ip", "route", "add", "172.16.0.0/12", "via", "203.0.113.1")
	if err := w.pingWithin(silence, eps[0].Settings.IPAddress.String()); err == nil {
		t.Error("the world reached the container directly")
	}
	sh(t, "nft flush ruleset")
	deadline := time.Now().Add(patience)
	for !strings.Contains(sh(t, "nft list ruleset"), "masquerade") {
		if time.Now().After(deadline) {
			t.Fatal("the table did not come back")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := a.ping("203.0.113.2"); err != nil {
		t.Error("after nft flush ruleset:", err)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// The table as nft(8) reads it back from the kernel.
func TestRulesText(t *testing.T) {
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "six", EnableIPv6: &yes, IPAM: ipam(subnet("10.9.0.0/24", "", ""), subnet("fd00:9::/64", "", "")), Options: map[string]string{optICC: "0", optName: "br-six"}})
	create(t, r, network.CreateRequest{Name: "shut", Internal: true, Options: map[string]string{optName: "br-shut"}})
	q := newBox(t).request("bridge")
	q.Ports = portMapOf(t, "127.0.0.1:8080:80/tcp", ":8081:81/udp")
	attach(t, r, q)
	q = newBox(t).request("six", "shut")
	q.Want["six"].GwPriority = 1
	q.Ports = portMapOf(t, ":8082:82/tcp", "::1:8083:83/sctp")
	attach(t, r, q)
	got := sh(t, "nft list table inet wharf; nsenter --net="+q.Netns+" nft list table inet wharf")
	got = regexp.MustCompile(`redirect to :\d+`).ReplaceAllString(got, "redirect to :DNS")
	got = regexp.MustCompile(`elements = \{[^}]*\}`).ReplaceAllStringFunc(got, func(es string) string { // they come in any order
		w := strings.Split(strings.Trim(strings.TrimPrefix(es, "elements = "), "{}"), ",")
		for i := range w {
			w[i] = strings.TrimSpace(w[i])
		}
		slices.Sort(w)
		return "elements = { " + strings.Join(w, ", ") + " }"
	})
	golden := filepath.Join("testdata", "table.nft")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

func TestWarnsAboutOtherFirewalls(t *testing.T) {
	r := open(t, Options{})
	sh(t, "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'")
	attach(t, r, newBox(t).request("bridge"))
	if w := r.Warnings(); len(w) != 1 || !strings.Contains(w[0], "chain FORWARD of nftables table filter drops forwarded packets") {
		t.Errorf("%q", w)
	}
	// A firewall that comes later, or refuses by its last rule, is seen too; one that goes is forgotten.
	sh(t, "nft delete table ip filter")
	if w := r.Warnings(); len(w) != 0 {
		t.Errorf("%q", w)
	}
	sh(t, "nft add table inet fire; nft 'add chain inet fire F { type filter hook forward priority 0; }'; nft add rule inet fire F tcp dport 22 drop; nft add rule inet fire F counter reject")
	if w := r.Warnings(); len(w) != 1 || !strings.Contains(w[0], "chain F of nftables table fire") {
		t.Errorf("%q", w)
	}
	sh(t, "nft add rule inet fire F tcp dport 23 drop")
	if w := r.Warnings(); len(w) != 0 {
		t.Errorf("%q", w)
	}
	for _, p := range []AddressPool{{}, {netip.MustParsePrefix("10.0.0.0/16"), 8}, {netip.MustParsePrefix("10.0.0.0/16"), 32}} {
		if _, err := Open(context.Background(), Options{Dir: t.TempDir(), Pools: []AddressPool{p}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", p, err)
		}
	}
}
