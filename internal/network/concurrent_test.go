package network

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Containers come, connect, disconnect and go side by side, while a network
// is made and removed all the time; in the end nothing is held.
func TestManyAtOnce(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "one"})
	create(t, r, network.CreateRequest{Name: "two"})
	stop := make(chan struct{})
	var maker, wg sync.WaitGroup
	maker.Go(func() { // removals race with whoever wants to be on it
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.Create(bg, network.CreateRequest{Name: "shaky"}); err != nil && !errdefs.IsConflict(err) {
				t.Error("create:", err)
			}
			if err := r.Remove(bg, "shaky"); err != nil && !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err) {
				t.Error("remove:", err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	for i := range 6 {
		b := newBox(t)
		wg.Go(func() {
			if err := comeAndGo(r, b, i); err != nil {
				t.Errorf("box %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	close(stop)
	maker.Wait()
	_ = r.Remove(bg, "shaky")
	nothingHeld(t, r)
}

// comeAndGo is what a container does in its life, a few times over.
func comeAndGo(r *Room, b *box, i int) error {
	for range 4 {
		q := b.request("one")
		q.Ports = network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: fmt.Sprint(20000 + i)}}}
		if _, err := r.Attach(bg, q); err != nil {
			return err
		}
		q.Pid, q.Netns = b.cmd.Process.Pid, ""
		for _, n := range []string{"two", "shaky"} {
			q.Want = map[string]*network.EndpointSettings{n: {}}
			if _, err := r.Connect(bg, q, n); errdefs.IsNotFound(err) && n == "shaky" {
				continue
			} else if err != nil {
				return err
			}
			var errs []error // two clients at once: one of them hears that it is not connected
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if err := r.Disconnect(bg, b.id, n, false); err != nil {
						mu.Lock()
						errs = append(errs, err)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			// Or, when nobody is on it any more, that the network has been removed.
			if len(errs) > 1 || len(errs) == 1 && !errdefs.IsInvalidArgument(errs[0]) && (n != "shaky" || !errdefs.IsNotFound(errs[0])) {
				return errors.Join(errs...)
			}
			if _, err := r.Refresh(bg, q); err != nil {
				return err
			}
		}
		if err := r.Detach(bg, b.id); err != nil {
			return err
		}
		// The same namespace again: what a restart with a pool would do.
		b.run("ip", "link", "del", "eth0")
	}
	return nil
}

// nothingHeld looks at the room's books and at the kernel.
func nothingHeld(t *testing.T, r *Room) {
	t.Helper()
	r.mu.Lock()
	if len(r.held)+len(r.ports)+len(r.insiders)+len(r.leaving) > 0 {
		t.Errorf("held %v, ports %v, insiders %v, leaving %v", r.held, r.ports, r.insiders, r.leaving)
	}
	for _, n := range r.nets {
		for _, p := range n.pools {
			fresh, err := newNet(n.rec)
			if err != nil {
				t.Fatal(err)
			}
			if p.used != fresh.pools[0].used {
				t.Errorf("network %s: %d addresses used, %d when it was new", n.rec.Name, p.used, fresh.pools[0].used)
			}
		}
	}
	r.mu.Unlock()
	if got := sh(t, "nft list map inet wharf ports4any"); strings.Contains(got, "elements") {
		t.Error(got)
	}
	for end := time.Now().Add(janitorDelay + patience); ; time.Sleep(100 * time.Millisecond) {
		left := sh(t, "ip -o link | grep -o 'wh[0-9a-f]\\{12\\}.' || true")
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("links left: %s", left)
		}
	}
}

// A full network says so, leaves nothing behind, and has room again when
// somebody leaves.
func TestExhaustedNetwork(t *testing.T) {
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "tiny", EnableIPv6: &yes, IPAM: ipam(subnet("10.66.0.0/30", "", ""), subnet("fd66::/64", "", ""))})
	a, b := newBox(t), newBox(t)
	attach(t, r, a.request("tiny"))
	q := b.request("tiny", "bridge")
	q.Ports = portMapOf(t, ":20100:80/tcp")
	if _, err := r.Attach(bg, q); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no available IPv4 addresses on this network's address pools: 10.66.0.0/30 is full") {
		t.Error(err)
	}
	if len(r.held) != 1 || len(r.ports) != 0 {
		t.Errorf("held %v, ports %v", r.held, r.ports)
	}
	if err := r.Detach(bg, a.id); err != nil {
		t.Fatal(err)
	}
	attach(t, r, q)
}

// What is removed because nobody uses it is the link that was looked at, and
// not one that a container has got under its name meanwhile.
func TestUnusedLinkIsTheOneLookedAt(t *testing.T) {
	r := open(t, Options{})
	const link = "wh0123456789ab0"
	add := "ip link add " + link + " type veth peer name other"
	sh(t, add)
	r.mu.Lock() // it stops where it looks who holds the link
	done := make(chan error, 1)
	go func() { done <- r.removeUnused(link) }()
	stacks := make([]byte, 1<<20)
	waits := regexp.MustCompile(`(?s)\[sync\.Mutex\.Lock[^\n]*\n[^\n]*(\n[^\n]+)*removeUnused`)
	for end := time.Now().Add(patience); !waits.Match(stacks[:runtime.Stack(stacks, true)]); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.mu.Unlock()
			t.Fatal("it does not look")
		}
	}
	sh(t, "ip link del "+link+" && "+add)
	r.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !r.linkExists(link) {
		t.Error("the next link under the name was removed")
	}
}
