package held

import (
	"context"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// resolveSyslog replaces a host name in syslog-address by its address: the
// monitor has no resolver, which would double its size.
func resolveSyslog(ctx context.Context, p *model.LogPlan) error {
	const option = "syslog-address"
	network, hostport, ok := cutScheme(p.Options[option])
	if p.Driver != "syslog" || !ok {
		return nil
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "514"
	}
	if net.ParseIP(host) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("log-opt %s: look up %s: %v", option, host, err))
	}
	p.Options = maps.Clone(p.Options)
	p.Options[option] = network + "://" + net.JoinHostPort(addrs[0].String(), port)
	return nil
}

// cutScheme splits "udp://host:port"; ok only for udp and tcp.
func cutScheme(s string) (network, rest string, ok bool) {
	for _, n := range []string{"udp", "tcp"} {
		if len(s) > len(n)+3 && s[:len(n)+3] == n+"://" {
			return n, s[len(n)+3:], true
		}
	}
	return "", "", false
}
