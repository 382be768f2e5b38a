package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// serve answers every connection to the box's TCP and UDP port with the
// caller's address as the box sees it.
func (b *box) serve(port int) {
	b.t.Helper()
	ns, err := openNetns(b.netns())
	if err != nil {
		b.t.Fatal(err)
	}
	defer ns.close()
	var l stdnet.Listener
	var u stdnet.PacketConn
	err = ns.do(func() (err error) {
		if l, err = stdnet.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		u, err = stdnet.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, c.RemoteAddr().(*stdnet.TCPAddr).IP)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(writerTo{u, from}, from.(*stdnet.UDPAddr).IP)
		}
	}()
}

type writerTo struct {
	c  stdnet.PacketConn
	to stdnet.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.c.WriteTo(b, w.to) }

// ask calls a server from the box, or from the host when b is nil.
func ask(b *box, proto, addr string) (string, error) { return askWithin(patience, b, proto, addr) }

func askWithin(d time.Duration, b *box, proto, addr string) (string, error) {
	var c stdnet.Conn
	dial := func() (err error) {
		c, err = stdnet.DialTimeout(proto, addr, d)
		return err
	}
	var err error
	if b == nil {
		err = dial()
	} else {
		ns, oerr := openNetns(b.netns())
		if oerr != nil {
			return "", oerr
		}
		defer ns.close()
		err = ns.do(dial)
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(d))
	if proto == "udp" {
		_, _ = c.Write([]byte("x"))
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSpace(s), err
}

func portMapOf(t testing.TB, specs ...string) network.PortMap {
	t.Helper()
	m := network.PortMap{}
	for _, s := range specs { // host:port:container/proto
		i := strings.LastIndex(s, ":")
		j := strings.LastIndex(s[:i], ":")
		w := []string{s[:j], s[j+1 : i], s[i+1:]}
		p := network.MustParsePort(w[2])
		b := network.PortBinding{HostPort: w[1]}
		if w[0] != "" {
			b.HostIP = netip.MustParseAddr(w[0])
		}
		m[p] = append(m[p], b)
	}
	return m
}

func TestPublishedPorts(t *testing.T) {
	w := outside(t)
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	a, b := newBox(t), newBox(t)
	q := a.request("bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp", ":8080:80/udp", "127.0.0.1:0:81/tcp", ":9000-9010:82/tcp")
	eps := attach(t, r, q)
	attach(t, r, b.request("bridge"))
	ip, gw := eps[0].Settings.IPAddress.String(), eps[0].Settings.Gateway.String()
	for _, p := range []int{80, 81, 82} {
		a.serve(p)
	}
	ephemeral := eps[0].Ports[network.MustParsePort("81/tcp")][0].HostPort
	if got := eps[0].Ports[network.MustParsePort("82/tcp")][0].HostPort; got != "9000" {
		t.Errorf("from the range: %s", got)
	}
	for _, c := range []struct {
		who               string
		from              *box
		proto, addr, want string
	}{
		{"world", w, "tcp", "203.0.113.1:8080", "203.0.113.2"}, // the client's address is kept
		{"world", w, "udp", "203.0.113.1:8080", "203.0.113.2"},
		{"world", w, "tcp", "203.0.113.1:9000", "203.0.113.2"},
		{"host", nil, "tcp", "127.0.0.1:8080", gw},
		{"host", nil, "udp", "127.0.0.1:8080", gw},
		{"host", nil, "tcp", "127.0.0.1:" + ephemeral, gw},
		{"host", nil, "tcp", "203.0.113.1:8080", "203.0.113.1"},
		{"neighbour", b, "tcp", "203.0.113.1:8080", gw}, // hairpin through the host
		{"itself", a, "tcp", "203.0.113.1:8080", gw},    // a's own port
		{"neighbour", b, "tcp", ip + ":80", "172.17.0.3"},
	} {
		got, err := ask(c.from, c.proto, c.addr)
		if err != nil || got != c.want {
			t.Errorf("from %s: %s %s: %q, %v; want %q", c.who, c.proto, c.addr, got, err, c.want)
		}
	}
	if got, err := askWithin(silence, w, "tcp", "203.0.113.1:"+ephemeral); err == nil {
		t.Errorf("a port on 127.0.0.1 answers the world: %q", got)
	}
	l, err := stdnet.Listen("tcp", "127.0.0.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.must("ip", "route", "add", "127.5.0.0/16", "via", gw, "table", "99") // a container that tries the host's loopback
	if got, err := askWithin(silence, b, "tcp", gw+":7000"); err == nil {
		t.Errorf("host loopback reached: %q", got)
	}
	portConflicts(t, r, a)
	if err := r.Detach(context.Background(), a.id); err != nil {
		t.Fatal(err)
	}
	if _, err := askWithin(silence, w, "tcp", "203.0.113.1:8080"); err == nil {
		t.Error("the port is still open after detach")
	}
	q = b.request("bridge")
	q.ID = model.NewID()
	q.Netns = newBox(t).netns()
	q.Ports = portMapOf(t, ":8080:80/tcp")
	attach(t, r, q)
}

func portConflicts(t *testing.T, r *Room, holder *box) {
	c := newBox(t)
	q := c.request("bridge")
	q.Ports = portMapOf(t, ":8079:79/tcp", "127.0.0.1:8080:80/tcp")
	_, err := r.Attach(context.Background(), q)
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Bind for 127.0.0.1:8080 failed: port is already allocated") || !strings.Contains(err.Error(), "box-"+holder.id.Short()) {
		t.Errorf("taken by a container: %v", err)
	}
	q.Ports = portMapOf(t, ":8079:79/tcp", ":7000:80/tcp")
	_, err = r.Attach(context.Background(), q)
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), fmt.Sprintf("by process %d", os.Getpid())) {
		t.Errorf("taken by a process: %v", err)
	}
	q.Ports = portMapOf(t, ":70000:80/tcp")
	if _, err = r.Attach(context.Background(), q); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no port: %v", err)
	}
	q.Ports = portMapOf(t, ":8079:79/tcp", ":9000-9010:80/tcp") // what failed left nothing behind
	eps := attach(t, r, q)
	if got := eps[0].Ports[network.MustParsePort("80/tcp")][0].HostPort; got != "9001" {
		t.Errorf("second of the range: %s", got)
	}
}

// A daemon that is killed and started again finds addresses and ports held,
// and what has no record is swept.
func TestRestore(t *testing.T) {
	needRoot(t)
	w := outside(t)
	o := Options{Dir: t.TempDir()}
	first, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	a, lost := newBox(t), newBox(t)
	q := a.request("bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp")
	eps := attach(t, first, q)
	attach(t, first, lost.request("bridge"))
	a.serve(80)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	sh(t, "nft flush ruleset") // and somebody else did this meanwhile
	r := open(t, o)
	if err := r.Restore(context.Background(), a.id, eps); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(w, "tcp", "203.0.113.1:8080"); err != nil || got != "203.0.113.2" {
		t.Errorf("%q, %v", got, err)
	}
	ids, err := r.Attached(context.Background())
	if err != nil || len(ids) != 2 {
		t.Fatalf("%v, %v", ids, err)
	}
	for _, id := range ids {
		if id != a.id {
			if string(id) != lost.id.Short() {
				t.Errorf("stray %s", id)
			}
			if err := r.Detach(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
	}
	next := attach(t, r, newBox(t).request("bridge"))
	if next[0].Settings.IPAddress == eps[0].Settings.IPAddress {
		t.Error("an address was given twice")
	}
	in, err := r.Inspect(context.Background(), "bridge", false)
	if err != nil || in.Containers[string(a.id)].Name != "box-"+a.id.Short() {
		t.Errorf("%+v, %v", in, err)
	}
	deadline := time.Now().Add(janitorDelay + patience)
	for r.linkExists(hostLink(lost.id, 0)) {
		if time.Now().After(deadline) {
			t.Fatal("the stray link is still there")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := a.ping(next[0].Settings.IPAddress.String()); err != nil {
		t.Error(err)
	}
}

func TestPublishedPortsIPv6(t *testing.T) {
	w := outside(t)
	sh(t, "ip addr add 2001:db8::1/64 dev wan nodad")
	w.must("ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "six", EnableIPv6: &yes})
	a := newBox(t)
	q := a.request("six")
	q.Ports = portMapOf(t, ":0:80/tcp", "2001:db8::1:8081:81/udp")
	eps := attach(t, r, q)
	a.serve(80)
	a.serve(81)
	both := eps[0].Ports[network.MustParsePort("80/tcp")]
	if len(both) != 2 || both[0].HostPort != both[1].HostPort {
		t.Fatalf("%+v", both)
	}
	for _, c := range []struct{ proto, addr, want string }{
		{"tcp", "[2001:db8::1]:" + both[0].HostPort, "2001:db8::2"},
		{"udp", "[2001:db8::1]:8081", "2001:db8::2"},
		{"tcp", "203.0.113.1:" + both[0].HostPort, "203.0.113.2"},
	} {
		if got, err := ask(w, c.proto, c.addr); err != nil || got != c.want {
			t.Errorf("%s %s: %q, %v", c.proto, c.addr, got, err)
		}
	}
}

// A container that had nothing to publish by publishes when it is connected.
func TestConnectPublishes(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "shut", Internal: true})
	a := newBox(t)
	q := a.request("shut", "bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp")
	first := q
	first.Want = map[string]*network.EndpointSettings{"shut": {}}
	attach(t, r, first)
	a.serve(80)
	if _, err := askWithin(silence, nil, "tcp", "127.0.0.1:8080"); err == nil {
		t.Error("an internal network publishes")
	}
	ep, err := r.Connect(context.Background(), q, "bridge")
	if err != nil || len(ep.Ports) != 1 {
		t.Fatal(ep, err)
	}
	if _, err := ask(nil, "tcp", "127.0.0.1:8080"); err != nil {
		t.Error(err)
	}
	if err := r.Disconnect(context.Background(), a.id, "bridge", false); err != nil {
		t.Fatal(err)
	}
	if _, err := askWithin(silence, nil, "tcp", "127.0.0.1:8080"); err == nil {
		t.Error("published after disconnect")
	}
}
