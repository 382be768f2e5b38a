package runtime_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

// started starts a bundle that goes on running.
func started(t testing.TB, b *model.Bundle) *runtime.Process {
	t.Helper()
	proc, err := runtime.Create(prepared(t, b), runtime.Files{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = proc.Signal(syscall.SIGKILL)
		_, _ = proc.Wait()
		_ = proc.Close()
	})
	if err := proc.Start(); err != nil {
		t.Fatal(err)
	}
	return proc
}

func preparedExec(t testing.TB, b *model.Bundle, e *model.ExecSpec) *runtime.PreparedExec {
	t.Helper()
	p, err := prepare.Exec(b, e, parent+"/"+b.ID.Short(), prepare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var out runtime.PreparedExec
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

func execSpec(args ...string) *model.ExecSpec {
	return &model.ExecSpec{Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps}}}
}

func runExec(t testing.TB, pid int, p *runtime.PreparedExec) (string, int, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	done := make(chan struct{})
	go func() { _, _ = io.Copy(&out, r); close(done) }()
	proc, err := runtime.Exec(pid, p, runtime.Files{Stdout: w, Stderr: w})
	if err != nil {
		_ = w.Close()
		<-done
		return out.String(), -1, err
	}
	defer proc.Close()
	err = proc.Start()
	_ = w.Close()
	st, _ := proc.Wait()
	<-done
	return out.String(), st.ExitStatus(), err
}

func TestExecJoins(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sleep", "100")
	proc := started(t, b)
	out, code, err := runExec(t, proc.Pid, preparedExec(t, b, execSpec("sh", "-c", "id -u; hostname; cat /proc/1/cmdline; echo; readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; exit 7")))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	if code != 7 || lines[0] != "0" || lines[1] != "box" || !strings.HasPrefix(lines[2], "sleep") || lines[3] != lines[4] {
		t.Fatalf("code %d\n%s", code, out)
	}
}

func TestExecErrors(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sleep", "100")
	proc := started(t, b)
	for _, c := range []struct {
		spec *model.ExecSpec
		user string
		cwd  string
		code int
		msg  string
	}{
		{execSpec("nosuch"), "", "/", 127, `exec: "nosuch": executable file not found in $PATH`},
		{execSpec("/nosuch"), "", "/", 127, `exec: "/nosuch": stat /nosuch: no such file or directory`},
		{execSpec("/etc/passwd"), "", "/", 126, `exec: "/etc/passwd": permission denied`},
		{execSpec("/etc"), "", "/", 126, `exec: "/etc": is a directory`},
		{execSpec("true"), "nobody", "/", 128, "unable to find user nobody: no matching entries in passwd file"},
		{execSpec("true"), "root:nogroup", "/", 128, "unable to find group nogroup: no matching entries in group file"},
		{execSpec("true"), "", "/nowhere", 127, `chdir to cwd ("/nowhere") set in config.json failed: no such file or directory`},
	} {
		c.spec.User, c.spec.Process.Cwd = c.user, c.cwd
		_, _, err := runExec(t, proc.Pid, preparedExec(t, b, c.spec))
		var e *runtime.ExecError
		if !errors.As(err, &e) || e.Code != c.code || e.Msg != c.msg {
			t.Errorf("%v: got %#v, want %d %s", c.spec.Process.Args, err, c.code, c.msg)
		}
	}
}
