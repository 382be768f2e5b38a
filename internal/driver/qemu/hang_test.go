package qemu

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	if took := time.Since(began); took < d.m.o.BootTime || took > 2*d.m.o.BootTime {
		t.Errorf("it took %v", took)
	}
	if err := d.Release(ctx, b.ID); err != nil {
		t.Error(err)
	}
}
