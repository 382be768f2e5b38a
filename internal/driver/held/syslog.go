package held

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// resolveSyslog replaces a host name in syslog-address by its address: the
// monitor has no resolver, which would double its size.
func resolveSyslog(ctx context.Context, p *model.LogPlan) error {
	const option = "syslog-address"
	hostport, ok := strings.CutPrefix(p.Options[option], "udp://") // over tcp wharf-logger sends, which has one
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
	p.Options[option] = "udp://" + net.JoinHostPort(addrs[0].String(), port)
	return nil
}
