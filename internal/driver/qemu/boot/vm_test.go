package boot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
)

// vm is a real machine, without the driver: QEMU, emulated, one channel.
type vm struct {
	t       *testing.T
	cmd     *exec.Cmd
	console bytes.Buffer
	dir     string
	session *yamux.Session
}

const agentFlags = "-s -w"

// startVM boots the image that this package makes, with the agent of this
// tree.
func startVM(t *testing.T, more ...string) *vm {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("boots a virtual machine from /boot: needs root")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64: apt-get install qemu-system-x86")
	}
	if _, err := Find("", ""); err != nil {
		t.Skipf("%v", err)
	}
	dir := t.TempDir()
	agent := filepath.Join(dir, "wharf-guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", agentFlags, "-o", agent, "wharf/cmd/wharf-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	img, err := New(Options{Dir: filepath.Join(dir, "boot"), Agent: agent}).Image(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, dir: dir}
	sock := filepath.Join(dir, "agent.sock")
	args := append([]string{
		"-M", "microvm,rtc=on,pit=on,pic=on", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256M", "-smp", "1",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", img.Vmlinux, "-initrd", img.Initrd, "-append", CommandLine(Line{Debug: true, TSCKHz: TSCKHz()}),
		"-serial", "stdio",
		"-chardev", "socket,id=agent,path=" + sock + ",server=on,wait=off",
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=" + guestapi.PortName,
	}, more...)
	v.cmd = exec.Command(qemu, args...)
	v.cmd.Stdout, v.cmd.Stderr = &v.console, &v.console
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
		if t.Failed() {
			t.Logf("console:\n%s", v.console.String())
		}
	})
	v.connect(sock)
	return v
}

func (v *vm) connect(sock string) {
	v.t.Helper()
	var conn net.Conn
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("unix", sock); err == nil {
			break
		}
	}
	if err != nil {
		v.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	var nonce [guestapi.NonceLen]byte
	_, _ = rand.Read(nonce[:])
	if err := guestapi.Greet(conn, nonce); err != nil {
		v.t.Fatalf("greeting: %v", err)
	}
	_ = conn.SetDeadline(time.Time{})
	c := yamux.DefaultConfig()
	c.EnableKeepAlive, c.LogOutput = false, io.Discard
	if v.session, err = yamux.Client(conn, c); err != nil {
		v.t.Fatal(err)
	}
}

// ask sends a request and returns the reply and the stream behind it.
func (v *vm) ask(q guestapi.Request) (guestapi.Reply, net.Conn, *guestapi.Reader) {
	v.t.Helper()
	s, err := v.session.Open()
	if err != nil {
		v.t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(60 * time.Second))
	if err := guestapi.WriteJSON(s, guestapi.RequestFrame, q); err != nil {
		v.t.Fatal(err)
	}
	r := &guestapi.Reader{R: s}
	var reply guestapi.Reply
	if err := r.Expect(guestapi.ReplyFrame, &reply); err != nil {
		v.t.Fatalf("%s: %v", q.Op, err)
	}
	return reply, s, r
}

// TestBoots is the plainest way: a machine comes up, answers, is told what it
// is, and goes.
func TestBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine; run without -short")
	}
	began := time.Now()
	v := startVM(t)
	reply, _, _ := v.ask(guestapi.Request{Op: guestapi.OpState})
	t.Logf("agent answers after %v: %s", time.Since(began), must(json.Marshal(reply.State)))
	if reply.State == nil || reply.State.Booted || reply.State.Kernel == "" || reply.State.CPUs != 1 {
		t.Errorf("state %+v", reply.State)
	}
	v.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x", Fresh: guestapi.Fresh{
		Time: time.Now().UnixNano(), Entropy: make([]byte, 64), MachineID: strings.Repeat("a", 32), Hostname: "box"}}})
	if reply, _, _ = v.ask(guestapi.Request{Op: guestapi.OpState}); !reply.State.Booted || reply.State.ID != "x" {
		t.Errorf("state %+v", reply.State)
	}
	v.ask(guestapi.Request{Op: guestapi.OpPowerOff})
	done := make(chan error, 1)
	go func() { done <- v.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("QEMU: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the machine did not power off")
	}
}

func must(b []byte, err error) string {
	if err != nil {
		return err.Error()
	}
	return string(b)
}
