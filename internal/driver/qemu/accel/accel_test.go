package accel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// The test binary is the helper too.
func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

func self(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func prober(t *testing.T, mode, device, helper string) *Prober {
	t.Helper()
	p, err := New(Options{Mode: mode, Helper: helper, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	p.device = device
	return p
}

func script(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		mode, device, script string
		accel, why           string
		fails                bool
	}{
		"works":      {"", "/dev/null", "echo kvm works", KVM, "ran a test guest", false},
		"no device":  {Auto, "/nowhere/kvm", "", TCG, "there is no", false},
		"says no":    {Auto, "/dev/null", "echo reason 9; exit 1", TCG, "reason 9", false},
		"hangs":      {Auto, "/dev/null", "exec sleep 60", TCG, "did not come to its end", false},
		"crawls":     {Auto, "/dev/null", "while :; do :; done", TCG, "did not come to its end", false},
		"late":       {Auto, "/dev/null", "sleep 1; echo kvm works", KVM, "ran a test guest", false},
		"nonsense":   {Auto, "/dev/null", "echo hm", TCG, `"hm"`, false},
		"tcg":        {OnlyEmule, "/dev/null", "echo kvm works", TCG, "configured", false},
		"kvm alone":  {OnlyKVM, "/nowhere/kvm", "", "", "", true},
		"kvm really": {OnlyKVM, "/dev/null", "echo kvm works", KVM, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			// Written while nobody forks: a child between fork and exec would
			// have it open for writing, and it could not be executed.
			p := prober(t, c.mode, c.device, script(t, c.script))
			if name != "hangs" {
				p.patience = time.Minute
			}
			t.Parallel()
			began := time.Now()
			accel, why, err := p.Accel(context.Background())
			if c.fails {
				if !errors.Is(err, errdefs.ErrUnavailable) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || accel != c.accel || !strings.Contains(why, c.why) {
				t.Errorf("%q, %q, %v", accel, why, err)
			}
			if took := time.Since(began); took > 2*time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A second look, also by another daemon, asks nobody.
func TestRemembered(t *testing.T) {
	p := prober(t, Auto, "/dev/null", script(t, "echo kvm works"))
	if accel, _, err := p.Accel(context.Background()); err != nil || accel != KVM {
		t.Fatalf("%q %v", accel, err)
	}
	next := &Prober{testTime: p.testTime, o: Options{Dir: p.o.Dir, Helper: "/nowhere"}, device: p.device}
	if accel, why, err := next.Accel(context.Background()); err != nil || accel != KVM {
		t.Errorf("%q %q %v", accel, why, err)
	}
	slower := &Prober{o: Options{Dir: p.o.Dir, Helper: script(t, "exit 1")}, device: "/dev/null", testTime: 2 * p.testTime, patience: p.patience}
	if accel, _, err := slower.Accel(context.Background()); err != nil || accel != TCG {
		t.Errorf("another limit: %q %v", accel, err)
	}
	other := &Prober{o: Options{Dir: p.o.Dir, Helper: "/nowhere"}, device: "/dev/zero"}
	if accel, _, err := other.Accel(context.Background()); err != nil || accel != TCG {
		t.Errorf("another device: %q %v", accel, err)
	}
}

// The first machine decides what the test guest could not.
func TestFirstMachine(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		mode     string
		prove    bool
		gave, is string
	}{
		"none came up":  {Auto, false, "true", TCG},
		"one came up":   {Auto, true, "false", KVM},
		"not to be tcg": {OnlyKVM, false, "false", KVM},
	} {
		t.Run(name, func(t *testing.T) {
			p := prober(t, c.mode, "/dev/null", script(t, "echo kvm works"))
			if accel, _, err := p.Accel(ctx); err != nil || accel != KVM {
				t.Fatalf("%q %v", accel, err)
			}
			if c.prove {
				p.Proven()
			}
			if got := fmt.Sprint(p.Failed("QEMU ended")); got != c.gave {
				t.Errorf("gave up: %s", got)
			}
			if got := fmt.Sprint(p.Failed("QEMU ended, too")); got != c.gave { // of one that started at the same time
				t.Errorf("the second gave up: %s", got)
			}
			next := &Prober{testTime: p.testTime, o: Options{Mode: c.mode, Dir: p.o.Dir, Helper: "/nowhere"}, device: p.device} // another daemon
			for _, p := range []*Prober{p, next} {
				accel, why, err := p.Accel(ctx)
				if err != nil || accel != c.is || (c.is == TCG) != strings.Contains(why, "did not come up on it: QEMU ended") {
					t.Errorf("%q %q %v", accel, why, err)
				}
			}
		})
	}
}

func TestUnknownMode(t *testing.T) {
	if _, err := New(Options{Mode: "fast"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
}

// TestHere says what this machine can do; there is no wrong answer but where KVM
// has to work (test/vmtest-kvm.sh).
func TestHere(t *testing.T) {
	p := prober(t, Auto, "/dev/kvm", self(t))
	forced := os.Getenv("WHARF_TEST_KVM") != ""
	if forced { // an emulated processor, which does not know when it is held up
		p.testTime, p.patience = time.Minute, 2*time.Minute
	}
	accel, why, err := p.Accel(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", accel, why)
	if forced && accel != KVM {
		t.Error("KVM has to work here")
	}
}
