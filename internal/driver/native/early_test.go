package native

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wharf/internal/model"
)

// earlyEnv names a file with the bundle of a start that is never told to go:
// the test program is then the "daemon" that will be killed.
const earlyEnv = "WHARF_NATIVE_EARLY"

// earlyChild begins a start and hangs in the wait until it is killed.
func earlyChild() int {
	var c struct {
		Options Options
		Bundle  *model.Bundle
	}
	b, err := os.ReadFile(os.Getenv(earlyEnv))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return 1
	}
	d, err := New(c.Options)
	if err != nil {
		return 1
	}
	sb, err := d.Sandbox(context.Background(), c.Bundle)
	if err != nil {
		return 1
	}
	_, _ = d.StartWhen(context.Background(), c.Bundle, sb, func(context.Context) error {
		_, _ = os.Stdout.WriteString("waiting\n")
		select {}
	})
	return 1
}

// TestStartWhen: the program runs after the word and not before it; a start
// that is given up leaves nothing.
func TestStartWhen(t *testing.T) {
	g, m := target(t)
	d := g.Driver.(*Driver)
	b := m.New(t, "/bin/sh", "-c", "exit 7")
	sb, err := d.Sandbox(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	var told time.Time
	i, err := d.StartWhen(t.Context(), b, sb, func(context.Context) error {
		time.Sleep(200 * time.Millisecond)
		if _, err := os.Stat(filepath.Join(d.opts.ExecRoot, "instances", string(b.ID), "exit")); err == nil {
			t.Error("the program has run before the word")
		}
		told = time.Now()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := i.Wait(t.Context())
	if err != nil || e.Code != 7 || e.At.Before(told) {
		t.Errorf("%+v %v, told at %v", e, err, told)
	}
	if err := d.Release(t.Context(), b.ID); err != nil {
		t.Error(err)
	}

	b = m.New(t, "/bin/true")
	if sb, err = d.Sandbox(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no network")
	if i, err = d.StartWhen(t.Context(), b, sb, func(context.Context) error { return no }); !errors.Is(err, no) || i != nil {
		t.Errorf("%v %v", i, err)
	}
	if err := d.Release(t.Context(), b.ID); err != nil {
		t.Error(err)
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("left: %v %v", ids, err)
	}
}

// TestStartWhenKilled: a daemon that dies before the word leaves no container
// that runs; the next one finds and releases what is there.
func TestStartWhenKilled(t *testing.T) {
	g, m := target(t)
	d := g.Driver.(*Driver)
	b := m.New(t, "/bin/sleep", "1000")
	file := filepath.Join(t.TempDir(), "child")
	p, err := json.Marshal(map[string]any{"Options": d.opts, "Bundle": b})
	if err == nil {
		err = os.WriteFile(file, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), earlyEnv+"="+file)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 100)
	n, err := out.Read(text)
	if err != nil || !strings.Contains(string(text[:n]), "waiting") {
		t.Fatalf("%q %v", text[:n], err)
	}
	time.Sleep(100 * time.Millisecond) // the container is made, and waits
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := d.Release(t.Context(), b.ID); err != nil {
		t.Error(err)
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("left: %v %v", ids, err)
	}
}
