package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

// A machine with as many shares as there may be, among them a file and a read-only
// one, is a clone from the second start on, and what it finds and writes is as it
// was when it was started cold. The template is the one of machines without
// shares.
func TestCloneShares(t *testing.T) {
	g, bundle := target(t)
	d := g.Driver.(*Driver)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	_ = os.Chmod(dir, 0o777)
	for name, text := range map[string]string{"data/in": "in the directory\n", "fixed/in": "read only\n", "one": "one file\n"} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const mostShares = slots - ownDevices - nics - rootDisks
	const script = `exec 2>&1; b=/bin/busybox; cat /data/in /fixed/in /one; $b stat -c %u /data/in; echo round >> /data/out; $b chown 33:33 /data/out; $b stat -c %u:%g /data/out
		echo x > /fixed/out; ls /fixed; $b grep -c virtiofs /proc/mounts; cat /more*/in`
	run := func() (string, []string) {
		b := bundle(t, "/bin/sh", "-c", script)
		for at, file := range map[string]string{"/data": "data", "/one": "one", "/fixed": "fixed"} {
			o := []string{"rbind", "rprivate"}
			if at == "/fixed" {
				o = append(o, "ro")
			}
			b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: at, Type: "bind", Source: filepath.Join(dir, file), Options: o})
		}
		for i := range mostShares - 3 {
			b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: fmt.Sprint("/more", i), Type: "bind", Source: filepath.Join(dir, "data"), Options: []string{"rbind", "rprivate"}})
		}
		return stepsToEnd(t, d, b)
	}
	cold, steps := run()
	if strings.Contains(strings.Join(steps, "\n"), "clone resumes") {
		t.Fatal("the first machine is a clone: ", steps)
	}
	waitTemplate(t, d)
	warm, steps := run()
	for _, want := range []string{"clone resumes", "devices are plugged in", "guest: late devices are found"} {
		if !strings.Contains(strings.Join(steps, "\n"), want) {
			t.Errorf("no step %q: %v", want, steps)
		}
	}
	if cold != warm {
		t.Errorf("cold %q, as a clone %q", cold, warm)
	}
	if out, err := os.ReadFile(filepath.Join(dir, "data/out")); err != nil || string(out) != "round\nround\n" {
		t.Errorf("written: %q %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "fixed/out")); err == nil {
		t.Error("the read-only directory was written to")
	}
}

// stepsToEnd is toEnd, and the names of the start's steps.
func stepsToEnd(t testing.TB, d *Driver, b *model.Bundle) (text string, steps []string) {
	t.Helper()
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
	i.(*instance).Steps(func(name string, took time.Duration) bool {
		t.Log(name, took.Round(time.Millisecond))
		steps = append(steps, name)
		return true
	})
	if e, err := i.Wait(ctx); err != nil || e.Code != 0 {
		t.Errorf("exit %+v %v", e, err)
	}
	if err := d.Release(ctx, b.ID); err != nil {
		t.Error(err)
	}
	return said(t, b), steps
}

// said is what b's process wrote.
func said(t testing.TB, b *model.Bundle) string {
	t.Helper()
	text, err := os.ReadFile(b.Log.Path)
	if err != nil {
		t.Error(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		var l struct{ Log string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("log line %q: %v", line, err)
		}
		out.WriteString(l.Log)
	}
	return out.String()
}

// waitTemplate waits for the first template.
func waitTemplate(t testing.TB, d *Driver) {
	t.Helper()
	has := func() bool {
		d.m.templates.mu.Lock()
		defer d.m.templates.mu.Unlock()
		return len(d.m.templates.byKey) == 1
	}
	for end := time.Now().Add(3 * time.Minute); !has(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no template was made")
		}
	}
}
