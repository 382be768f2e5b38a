package guest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
)

// patience is how long the agent may take: it may be emulated on a machine that
// does many other things, and one on the KVM of an emulated machine takes what
// both take, multiplied.
func patience() time.Duration {
	if os.Getenv("WHARF_TEST_ACCEL") == "kvm" {
		return 15 * time.Minute
	}
	return 5 * time.Minute
}

// host is the other end of the channel.
type host struct {
	t       *testing.T
	session *yamux.Session
	layout  cgroup.Layout
}

// greet begins a session on conn.
func (h *host) greet(conn net.Conn) {
	h.t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience()))
	var nonce [guestapi.NonceLen]byte
	_, _ = rand.Read(nonce[:])
	if err := guestapi.Greet(conn, nonce); err != nil {
		h.t.Fatalf("greeting: %v", err)
	}
	_ = conn.SetDeadline(time.Time{})
	var err error
	if h.session, err = yamux.Client(conn, yamuxConfig()); err != nil {
		h.t.Fatal(err)
	}
}

// try sends a request and returns the reply and the stream behind it.
func (h *host) try(q guestapi.Request) (guestapi.Reply, net.Conn, *guestapi.Reader, error) {
	h.t.Helper()
	var reply guestapi.Reply
	s, err := h.session.Open()
	if err != nil {
		return reply, nil, nil, err
	}
	_ = s.SetDeadline(time.Now().Add(patience()))
	if err := guestapi.WriteJSON(s, guestapi.RequestFrame, q); err != nil {
		return reply, nil, nil, err
	}
	r := &guestapi.Reader{R: s}
	return reply, s, r, r.Expect(guestapi.ReplyFrame, &reply)
}

// ask is try for what has to work.
func (h *host) ask(q guestapi.Request) (guestapi.Reply, net.Conn, *guestapi.Reader) {
	h.t.Helper()
	reply, s, r, err := h.try(q)
	if err != nil {
		h.t.Fatalf("%s: %v", q.Op, err)
	}
	return reply, s, r
}

// output reads a process's stream to its exit.
func (h *host) output(s net.Conn, r *guestapi.Reader) (out, errs string, e guestapi.Exit) {
	h.t.Helper()
	_ = s.SetDeadline(time.Now().Add(patience()))
	var o, x bytes.Buffer
	for {
		typ, p, err := r.Next()
		if err != nil {
			h.t.Fatalf("stream: %v (so far %q %q)", err, o.String(), x.String())
		}
		switch typ {
		case guestapi.Stdout:
			o.Write(p)
		case guestapi.Stderr:
			x.Write(p)
		case guestapi.ExitFrame:
			if err := json.Unmarshal(p, &e); err != nil {
				h.t.Fatal(err)
			}
			return o.String(), x.String(), e
		}
	}
}

// data reads Data frames to their end.
func (h *host) data(r *guestapi.Reader) []byte {
	h.t.Helper()
	all, err := io.ReadAll(&dataReader{r: r})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

func (h *host) prepareHost() *prepare.Host {
	p := &prepare.Host{HasNS: map[string]bool{}, Mknod: true, Cgroup: h.layout}
	for _, n := range []string{"mount", "pid", "network", "ipc", "uts", "user", "cgroup", "time"} {
		p.HasNS[n] = true
	}
	return p
}

// bundle is one of drivertest's for the guest.
func (h *host) bundle(layer string, args ...string) *model.Bundle {
	h.t.Helper()
	b := (&drivertest.Bundles{Layer: layer, Dir: h.t.TempDir()}).New(h.t, args...)
	b.IDs = model.IDRange{}
	b.Rootfs = model.Rootfs{Lower: []string{guestapi.LayersDir + "/0"}, Upper: guestapi.UpperDir, Work: guestapi.WorkDir}
	b.Spec.Linux.UIDMappings, b.Spec.Linux.GIDMappings = nil, nil
	var keep []specs.LinuxNamespace
	for _, n := range b.Spec.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace:
			continue
		case specs.NetworkNamespace:
			n.Path = "/proc/1/ns/net"
		}
		keep = append(keep, n)
	}
	b.Spec.Linux.Namespaces = keep
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: guestapi.EtcDir + "/hosts", Options: []string{"rbind", "rprivate"}})
	return b
}

func (h *host) start(b *model.Bundle) (guestapi.Reply, net.Conn, *guestapi.Reader, error) {
	h.t.Helper()
	p, err := prepare.Container(b, guestapi.CgroupPath, prepare.Options{Host: h.prepareHost()})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.try(guestapi.Request{Op: guestapi.OpStart, Process: &guestapi.Process{Prepared: encode(h.t, p), Terminal: b.Spec.Process.Terminal, OpenStdin: b.OpenStdin}})
}

func encode(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// execRequest describes a further process.
func (h *host) execRequest(b *model.Bundle, tty bool, args ...string) guestapi.Request {
	h.t.Helper()
	e := drivertest.Exec(args...)
	e.Process.Terminal = tty
	p, err := prepare.Exec(b, e, guestapi.CgroupPath, prepare.Options{Host: h.prepareHost()})
	if err != nil {
		h.t.Fatal(err)
	}
	return guestapi.Request{Op: guestapi.OpExec, Process: &guestapi.Process{ID: string(e.ID), Prepared: encode(h.t, p), Terminal: tty, OpenStdin: true}}
}

// exec runs a further process and returns its output.
func (h *host) exec(b *model.Bundle, args ...string) (string, string, guestapi.Exit) {
	h.t.Helper()
	_, s, r := h.ask(h.execRequest(b, false, args...))
	defer s.Close()
	return h.output(s, r)
}

// fresh is what every boot brings.
func fresh() guestapi.Fresh {
	return guestapi.Fresh{Time: time.Now().UnixNano(), Entropy: make([]byte, 64), MachineID: strings.Repeat("a", 32), Hostname: "box"}
}
