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

	"wharf/internal/model"
)

// Attach must not slow down by more than half on the way to 1,000 endpoints.
// It takes a minute of a quiet machine, so it runs only when asked for.
func TestThousandEndpoints(t *testing.T) {
	if os.Getenv("WHARF_SCALE") == "" {
		t.Skip("measures attach with 1,000 endpoints: WHARF_SCALE=1 go test -run ThousandEndpoints -v ./internal/network/")
	}
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "many", IPAM: ipam(subnet("10.50.0.0/20", "", "")), Options: map[string]string{optName: "br-many"}})
	var took []time.Duration
	for range 1000 {
		f := emptyNetns(t)
		defer func() { _ = f.Close() }()
		q := model.AttachNetworks{ID: model.NewID(), Netns: "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), Want: map[string]*network.EndpointSettings{"many": {}}}
		q.Name = "c" + q.ID.Short()
		began := time.Now()
		attach(t, r, q)
		took = append(took, time.Since(began))
	}
	median := func(d []time.Duration) time.Duration {
		d = slices.Clone(d)
		slices.Sort(d)
		return d[len(d)/2]
	}
	for n := 1000; ; n++ { // on to the end of the bridge
		f := emptyNetns(t)
		defer func() { _ = f.Close() }()
		q := model.AttachNetworks{ID: model.NewID(), Netns: "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), Want: map[string]*network.EndpointSettings{"many": {}}}
		if _, err := r.Attach(bg, q); err != nil {
			if n != bridgePorts || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "1023 ports") {
				t.Errorf("endpoint %d: %v", n+1, err)
			}
			break
		}
	}
	first, last := median(took[:100]), median(took[900:])
	t.Logf("attach: first hundred %v, last hundred %v (%.2f)", first, last, float64(last)/float64(first))
	if last > first*3/2 {
		t.Errorf("attach slowed down from %v to %v", first, last)
	}
}
