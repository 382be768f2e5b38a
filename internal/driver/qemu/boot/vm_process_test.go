package boot

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
)

// ext4 makes a disk from a directory; "" is an empty one.
func ext4(t *testing.T, from, size string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	args := []string{"-q", "-F", "-b", "4096"}
	if from != "" {
		args = append(args, "-d", from)
	}
	out, err := exec.Command("mkfs.ext4", append(args, file, size)...).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return file
}

func drive(n, file string, readOnly string) []string {
	return []string{"-drive", "if=none,id=" + n + ",format=raw,file=" + file + ",readonly=" + readOnly, "-device", "virtio-blk-device,drive=" + n + ",serial=" + n}
}

func guestHost() *prepare.Host {
	h := &prepare.Host{HasNS: map[string]bool{}, Mknod: true, Cgroup: cgroup.Layout{V2: guestapi.CgroupRoot, V2Controllers: map[string]bool{}}}
	for _, n := range []string{"mount", "pid", "network", "ipc", "uts", "user", "cgroup", "time"} {
		h.HasNS[n] = true
	}
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "pids"} {
		h.Cgroup.V2Controllers[c] = true
	}
	return h
}

// inGuest makes drivertest's bundle one for the guest.
func inGuest(b *model.Bundle) *model.Bundle {
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
	return b
}

// output reads a process's stream to its exit.
func output(t *testing.T, s net.Conn, r *guestapi.Reader) (out, errs string, e guestapi.Exit) {
	t.Helper()
	_ = s.SetDeadline(time.Now().Add(60 * time.Second))
	var o, x bytes.Buffer
	for {
		typ, p, err := r.Next()
		if err != nil {
			t.Fatalf("stream: %v (so far %q %q)", err, o.String(), x.String())
		}
		switch typ {
		case guestapi.Stdout:
			o.Write(p)
		case guestapi.Stderr:
			x.Write(p)
		case guestapi.ExitFrame:
			if err := json.Unmarshal(p, &e); err != nil {
				t.Fatal(err)
			}
			return o.String(), x.String(), e
		}
	}
}

// instance is a machine that runs a process.
type instance struct {
	*vm
	b *model.Bundle
}

func boot(t *testing.T, args ...string) *instance {
	t.Helper()
	layer := drivertest.Layer(t)
	if err := os.WriteFile(filepath.Join(layer, "etc/gone"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(layer, "old/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	more := append(drive("layer0", ext4(t, layer, "32M"), "on"), drive("rw", ext4(t, "", "32M"), "off")...)
	v := startVM(t, append(more, "-netdev", "user,id=n0,restrict=on,net=10.9.0.0/24", "-device", "virtio-net-device,netdev=n0,mac=02:42:0a:09:00:05")...)
	v.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x",
		Fresh: guestapi.Fresh{Time: time.Now().UnixNano(), Entropy: make([]byte, 64), MachineID: strings.Repeat("a", 32), Hostname: "box"},
		Mounts: []guestapi.Mount{
			{Type: "ext4", Disk: "layer0", Target: guestapi.LayersDir + "/0", ReadOnly: true},
			{Type: "ext4", Disk: "rw", Target: guestapi.WritableAt, Grow: true, Dirs: []string{"upper", "work"}},
		},
		Files:      []guestapi.File{{Path: guestapi.EtcDir + "/hosts", Data: []byte("127.0.0.1 localhost\n")}},
		Interfaces: []guestapi.Interface{{MAC: "02:42:0a:09:00:05", Name: "eth0", MTU: 1400, Addresses: []string{"10.9.0.5/24"}, Routes: []guestapi.Route{{Gateway: "10.9.0.2"}}}},
		Sysctls:    map[string]string{"vm.max_map_count": "262144"},
	}})
	b := inGuest((&drivertest.Bundles{Layer: layer, Dir: t.TempDir()}).New(t, args...))
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: guestapi.EtcDir + "/hosts", Options: []string{"rbind", "rprivate"}})
	return &instance{v, b}
}

func (i *instance) start() (guestapi.Reply, net.Conn, *guestapi.Reader) {
	i.t.Helper()
	p, err := prepare.Container(i.b, guestapi.CgroupPath, prepare.Options{Host: guestHost()})
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.ask(guestapi.Request{Op: guestapi.OpStart, Process: &guestapi.Process{Prepared: text, Terminal: i.b.Spec.Process.Terminal, OpenStdin: i.b.OpenStdin}})
}

// exec runs a further process and returns its output.
func (i *instance) exec(args ...string) (string, string, guestapi.Exit) {
	i.t.Helper()
	e := drivertest.Exec(args...)
	p, err := prepare.Exec(i.b, e, guestapi.CgroupPath, prepare.Options{Host: guestHost()})
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		i.t.Fatal(err)
	}
	_, s, r := i.ask(guestapi.Request{Op: guestapi.OpExec, Process: &guestapi.Process{ID: string(e.ID), Prepared: text}})
	defer s.Close()
	return output(i.t, s, r)
}

// TestProcess is an instance's life: started, looked at, changed, ended.
func TestProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine; run without -short")
	}
	i := boot(t, "sh", "-c", "echo up; read x; echo got $x; rm /etc/gone; echo new >/etc/new; exit 7")
	i.b.OpenStdin = true
	reply, s, r := i.start()
	defer s.Close()
	if reply.Pid == 0 {
		t.Errorf("reply %+v", reply)
	}
	t.Logf("warnings %q", reply.Warnings)
	look := strings.Join([]string{"hostname", "cat /etc/hosts /proc/sys/vm/max_map_count", "busybox ip addr show eth0", "busybox ip route", "cat /proc/1/comm", "id -u", "busybox mount"}, "; ")
	out, errs, e := i.exec("sh", "-c", look)
	for _, want := range []string{"127.0.0.1 localhost", "262144", "mtu 1400", "inet 10.9.0.5/24 brd 10.9.0.255", "default via 10.9.0.2", "overlay on / "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s%s", want, out, errs)
		}
	}
	if e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	stats, _, _ := i.ask(guestapi.Request{Op: guestapi.OpStats})
	t.Logf("stats %s %v", stats.Stats.Docker, stats.Stats.Networks)
	top, _, _ := i.ask(guestapi.Request{Op: guestapi.OpTop})
	if len(top.Top.Pids) != 1 {
		t.Errorf("top %v", top.Top.Pids)
	}
	i.ask(guestapi.Request{Op: guestapi.OpPause})
	i.ask(guestapi.Request{Op: guestapi.OpResume})
	if err := guestapi.Write(s, guestapi.Stdin, []byte("word\n")); err != nil {
		t.Fatal(err)
	}
	out, _, e = output(t, s, r)
	if out != "up\ngot word\n" || e.Code != 7 {
		t.Errorf("output %q, exit %+v", out, e)
	}
	if _, err := io.ReadAll(s); err != nil {
		t.Errorf("the stream's end: %v", err)
	}
}
