package plan

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestLinkEnv(t *testing.T) {
	other := &container.Config{
		Env: []string{"FOO=1", "PATH=/x", "HOME=/y", "BARE"},
		ExposedPorts: network.PortSet{
			network.MustParsePort("6379/tcp"): {}, network.MustParsePort("53/udp"): {}, network.MustParsePort("53/tcp"): {},
		},
	}
	got := LinkEnv("web", "my-db", netip.MustParseAddr("172.17.0.2"), other)
	want := []string{
		"MY_DB_PORT=udp://172.17.0.2:53",
		"MY_DB_PORT_53_UDP=udp://172.17.0.2:53", "MY_DB_PORT_53_UDP_ADDR=172.17.0.2", "MY_DB_PORT_53_UDP_PORT=53", "MY_DB_PORT_53_UDP_PROTO=udp",
		"MY_DB_PORT_53_TCP=tcp://172.17.0.2:53", "MY_DB_PORT_53_TCP_ADDR=172.17.0.2", "MY_DB_PORT_53_TCP_PORT=53", "MY_DB_PORT_53_TCP_PROTO=tcp",
		"MY_DB_PORT_6379_TCP=tcp://172.17.0.2:6379", "MY_DB_PORT_6379_TCP_ADDR=172.17.0.2", "MY_DB_PORT_6379_TCP_PORT=6379", "MY_DB_PORT_6379_TCP_PROTO=tcp",
		"MY_DB_NAME=/web/my-db", "MY_DB_ENV_FOO=1",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
