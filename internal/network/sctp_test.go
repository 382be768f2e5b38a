package network

import (
	"encoding/binary"
	"hash/crc32"
	stdnet "net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
)

// sctpPacket is a packet with one chunk (RFC 9260): 1 is INIT, 2 INIT ACK.
func sctpPacket(from, to uint16, tag uint32, chunk byte) []byte {
	p := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	p = binary.BigEndian.AppendUint32(p, tag)
	p = append(p, 0, 0, 0, 0, chunk, 0, 0, 20)
	p = binary.BigEndian.AppendUint32(p, 0x1234) // initiate tag
	p = append(p, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}

func rawSCTP(t *testing.T, b *box, v6 bool) *stdnet.IPConn {
	t.Helper()
	path := "/proc/thread-self/ns/net"
	if b != nil {
		path = b.netns()
	}
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	var c *stdnet.IPConn
	proto := map[bool]string{false: "ip4:132", true: "ip6:132"}[v6]
	if err := ns.do(func() (err error) { c, err = stdnet.ListenIP(proto, nil); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// The kernel here has no SCTP sockets, so both ends write packets by hand:
// what counts is the way there and back, and the addresses.
func TestPublishedSCTP(t *testing.T) {
	w := outside(t)
	sh(t, "ip -6 addr add 2001:db8::1/64 dev wan nodad")
	w.must("ip", "-6", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "app", EnableIPv6: &yes})
	a := newBox(t)
	q := a.request("app")
	q.Ports = portMapOf(t, ":8080:80/sctp")
	eps := attach(t, r, q)
	any := newBox(t).request("app")
	any.Ports = portMapOf(t, ":0:80/sctp")
	if _, err := r.Attach(bg, any); err != nil && !strings.Contains(err.Error(), "name the host port") { // where the kernel has sockets it works
		t.Error(err)
	}
	if got := len(eps[0].Ports[network.MustParsePort("80/sctp")]); got != 2 {
		t.Errorf("%d bindings", got)
	}
	create(t, r, network.CreateRequest{Name: "other", EnableIPv6: &yes})
	far := newBox(t)
	attach(t, r, far.request("other"))
	es := eps[0].Settings // who comes from another network is masqueraded, with each protocol
	for _, c := range []struct {
		from         *box // nil: this host
		host, client string
	}{
		{w, "203.0.113.1", "203.0.113.2"}, {w, "2001:db8::1", "2001:db8::2"},
		{far, "203.0.113.1", es.Gateway.String()}, {far, "2001:db8::1", es.IPv6Gateway.String()},
		{nil, "203.0.113.1", "203.0.113.1"}, {nil, "2001:db8::1", "2001:db8::1"},
	} {
		v6 := netip.MustParseAddr(c.host).Is6()
		if c.from != nil {
			if err := c.from.ping(c.host); err != nil {
				t.Error(err)
			}
		}
		inside, outsider := rawSCTP(t, a, v6), rawSCTP(t, c.from, v6)
		if _, err := outsider.WriteTo(sctpPacket(5000, 8080, 0, 1), &stdnet.IPAddr{IP: stdnet.ParseIP(c.host)}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := inside.ReadFrom(buf)
		if err != nil || from.String() != c.client || n < 4 || binary.BigEndian.Uint16(buf[2:]) != 80 {
			t.Errorf("%s from %s: %v, %v, % x", c.host, c.client, err, from, buf[:n])
			continue
		}
		if _, err := inside.WriteTo(sctpPacket(80, 5000, 0x1234, 2), from); err != nil {
			t.Fatal(err)
		}
		n, from, err = outsider.ReadFrom(buf)
		if err != nil || from.String() != c.host || n < 4 || binary.BigEndian.Uint16(buf) != 8080 {
			t.Errorf("%s from %s: the answer: %v, %v, % x", c.host, c.client, err, from, buf[:n])
		}
	}
}
