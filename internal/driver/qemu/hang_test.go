package qemu

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/driver/qemu/boot"
)

// A machine whose agent never answers is started once more, and then ended: the
// error says so, and nothing is left.
func TestHungBoot(t *testing.T) {
	g, bundle := target(t)
	silent, err := exec.LookPath("busybox") // its init waits for somebody at a terminal
	if err != nil {
		t.Skip("no busybox: apt-get install busybox-static")
	}
	d := g.Driver.(*Driver)
	d.m.o.Boot = boot.New(boot.Options{Dir: filepath.Join(t.TempDir(), "boot"), Agent: silent})
	d.m.o.NoTemplates, d.m.templates.off = true, true
	d.m.o.BootTime = 10 * time.Second
	b := bundle(t, "/bin/true")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = d.Start(ctx, b, sb)
	if err == nil {
		t.Fatal("it has started")
	}
	for _, want := range []string{"did not answer within 6s", "a first boot had hung as well"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if took := time.Since(began); took < d.m.o.BootTime || took > 3*time.Minute { // with its making, on a busy machine
		t.Errorf("it took %v", took)
	}
	if err := d.Release(ctx, b.ID); err != nil {
		t.Error(err)
	}
}

// A machine that answers nobody any more costs each who asks a bounded time, is
// named in the error, and can be killed.
func TestHungMachine(t *testing.T) {
	g, bundle := target(t)
	d := g.Driver.(*Driver)
	d.m.o.NoTemplates, d.m.templates.off = true, true
	b := bundle(t, "/bin/busybox", "sleep", "1000")
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	i, err := d.Start(ctx, b, sb)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Release(ctx, b.ID) }()
	if _, err := i.Stats(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(i.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, first := range []bool{true, false} {
		_, err := i.Stats(ctx)
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "did not answer") || !strings.Contains(err.Error(), "QEMU itself does not answer since ") {
			t.Errorf("first %v: %v after %v", first, err, time.Since(began))
		}
	}
	if err := i.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if x, err := i.Wait(ctx); err != nil || x.Code != 137 || !strings.Contains(x.Error, "did not answer and was killed") {
		t.Errorf("%+v %v", x, err)
	}
	if took := time.Since(began); took > silenceTime { // else something else has ended it
		t.Errorf("it took %v", took)
	}
}

// silenceTime is after what the machine would be ended for its silence.
const silenceTime = 2 * time.Minute
