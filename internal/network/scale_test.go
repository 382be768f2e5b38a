package network

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Attach must not slow down by more than half on the way to 1,000 endpoints.
// What counts is the processor time of the attaching process, the kernel's
// included: other work on the machine does not change it much. It takes a
// minute, so it runs only when asked for.
func TestThousandEndpoints(t *testing.T) {
	if os.Getenv("WHARF_SCALE") == "" {
		t.Skip("measures attach with 1,000 endpoints: WHARF_SCALE=1 go test -run ThousandEndpoints -v ./internal/network/")
	}
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "many", IPAM: ipam(subnet("10.50.0.0/20", "", "")), Options: map[string]string{optName: "br-many"}})
	var all []cost
	for n := 0; ; n++ { // on to the end of the bridge
		f := emptyNetns(t)
		defer func() { _ = f.Close() }()
		q := model.AttachNetworks{ID: model.NewID(), Netns: "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), Want: map[string]*network.EndpointSettings{"many": {}}}
		q.Name = "c" + q.ID.Short()
		c, err := costOf(func() error { _, err := r.Attach(bg, q); return err })
		if err != nil {
			if n != bridgePorts || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "1023 ports") {
				t.Errorf("endpoint %d: %v", n+1, err)
			}
			break
		}
		all = append(all, c)
	}
	few := medianCost(all[1:51]) // the first one makes the bridge
	for _, n := range []int{50, 100, 250, 500, 750, 1000} {
		c := medianCost(all[n-49 : n])
		t.Logf("attach at %4d endpoints: processor %v (%.2f), clock %v", n, c.cpu, float64(c.cpu)/float64(few.cpu), c.clock)
	}
	if many := medianCost(all[950:1000]); many.cpu > few.cpu*3/2 {
		t.Errorf("attach slowed down from %v to %v of processor time", few.cpu, many.cpu)
	}
}

// cost is what something takes: the process's processor time, and what the
// clock says, which on a busy machine means little.
type cost struct{ cpu, clock time.Duration }

func costOf(f func() error) (cost, error) {
	began, before := time.Now(), processorTime()
	err := f()
	return cost{processorTime() - before, time.Since(began)}, err
}

func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func medianCost(all []cost) cost {
	median := func(f func(cost) time.Duration) time.Duration {
		var d []time.Duration
		for _, c := range all {
			d = append(d, f(c))
		}
		slices.Sort(d)
		return d[len(d)/2]
	}
	return cost{median(func(c cost) time.Duration { return c.cpu }), median(func(c cost) time.Duration { return c.clock })}
}
