package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	s := newScene(t)
	id := s.idle("-e", "A=1", "-w", "/tmp", "-h", "box")
	for _, r := range []row{
		{name: "output", args: []string{"exec", id, "echo", "hello"}, stdout: "hello"},
		{name: "code", args: []string{"exec", id, "sh", "-c", "exit 7"}, code: 7},
		{name: "signal", args: []string{"exec", id, "sh", "-c", "kill -15 $$"}, code: 143},
		{name: "not found", args: []string{"exec", id, "nonesuch"}, code: 127, stderr: "executable file not found"},
		{name: "not executable", args: []string{"exec", id, "/etc/passwd"}, code: 126, stderr: "permission denied"},
		{name: "inherited", args: []string{"exec", id, "sh", "-c", "echo $A; pwd; hostname"}, stdout: "1\n/tmp\nbox"},
		{name: "env and dir", args: []string{"exec", "-e", "B=2", "-w", "/etc", id, "sh", "-c", "echo $A$B; pwd"}, stdout: "12\n/etc"},
		{name: "user", args: []string{"exec", "-u", "user", id, "id", "-un"}, stdout: "user"},
		{name: "user ids", args: []string{"exec", "-u", "5:6", id, "sh", "-c", "id -u; id -g"}, stdout: "5\n6"},
		{name: "unknown user", args: []string{"exec", "-u", "nonesuch", id, "true"}, code: 126, stderr: "nonesuch"},
		{name: "stdin", args: []string{"exec", "-i", id, "tr", "a-z", "A-Z"}, stdin: "shout", stdout: "SHOUT"},
		{name: "stderr", args: []string{"exec", id, "sh", "-c", "echo e >&2; echo o"}, stdout: "o", stderr: "e"},
		{name: "privileged", args: []string{"exec", "--privileged", id, "grep", "CapEff", "/proc/self/status"}, stdout: "~0000001f|000001f"},
		{name: "plain capabilities", args: []string{"exec", id, "grep", "CapEff", "/proc/self/status"}, stdout: "~00000000a80425fb$"},
		{name: "seccomp", args: []string{"exec", id, "grep", "Seccomp:", "/proc/self/status"}, stdout: "~2$"},
		{name: "no such container", args: []string{"exec", "nonesuch", "true"}, code: 1, stderr: "No such container: nonesuch"},
		{name: "no such directory", args: []string{"exec", "-w", "/no/such", id, "pwd"}, code: 127, stderr: "/no/such"},
	} {
		t.Run(r.name, func(t *testing.T) {
			inner := &scene{T: t, d: s.d, label: s.label}
			inner.check(r)
		})
	}
	s.ok("exec", "-d", id, "touch", "/tmp/made")
	if err := eventually(5*time.Second, func() error { return s.docker("exec", id, "test", "-e", "/tmp/made").err() }); err != nil {
		t.Errorf("exec -d: %v", err)
	}
	s.equal("same pid namespace", s.ok("exec", id, "readlink", "/proc/self/ns/pid"), s.ok("exec", id, "readlink", "/proc/1/ns/pid"))
	s.ok("pause", id)
	s.fails(1, "is paused", "exec", id, "true")
	s.ok("unpause", id)
	s.ok("stop", "-t", "0", id)
	s.fails(1, "is not running", "exec", id, "true")
}

// err is nil for exit code 0.
func (r result) err() error {
	if r.Code == 0 {
		return nil
	}
	return &resultError{r}
}

type resultError struct{ r result }

func (e *resultError) Error() string { return e.r.String() }

// terminal runs the stock CLI on a pseudo terminal, types input and returns
// what it printed and its exit code.
func (s *scene) terminal(input string, args ...string) (string, int) {
	s.Helper()
	cmd := exec.Command(tools.docker, s.args(args)...)
	cmd.Env = s.d.env()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 111})
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, f) // EIO when the other end closes
	}()
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	go func() {
		if input != "" && isRaw(f, done) {
			_, _ = io.WriteString(f, input)
		}
	}()
	limit, late := max(busy, patient(20*time.Second)), false
	select {
	case <-done:
	case <-time.After(limit):
		late = true
		_ = cmd.Process.Kill()
		<-done
	}
	select {
	case <-read:
	case <-time.After(busy):
		s.Fatalf("%s: somebody holds its terminal", strings.Join(args, " "))
	}
	if late {
		s.Errorf("%s: still running after %s; it printed %q", strings.Join(args, " "), limit, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// isRaw waits until the CLI has set its terminal raw: what is typed before that
// is for the terminal, which keeps ^Q for itself, and not for the container.
func isRaw(f *os.File, done <-chan struct{}) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	for {
		raw := false
		_ = conn.Control(func(fd uintptr) {
			t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
			raw = err == nil && t.Lflag&unix.ICANON == 0
		})
		if raw {
			return true
		}
		select {
		case <-done:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestTerminal(t *testing.T) {
	s := newScene(t)
	out, code := s.terminal("", "run", "--rm", "-t", "busybox", "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo tty; tty; exit 4")
	s.contains("run -t", out, "tty\r", "/dev/pts/0")
	if code != 4 {
		t.Errorf("run -t: exit %d, want 4", code)
	}
	out, code = s.terminal("stty size\nexit 3\n", "run", "--rm", "-it", "busybox", "sh")
	s.contains("run -it", out, "33 111")
	if code != 3 {
		t.Errorf("run -it: exit %d, want 3; %q", code, out)
	}
	id := s.running("-it", "busybox", "sh")
	out, code = s.terminal("echo $((6*7))\nexit 9\n", "exec", "-it", id, "sh")
	s.contains("exec -it", out, "42")
	if code != 9 {
		t.Errorf("exec -it: exit %d, want 9", code)
	}
	// Detach keys leave the container running; a second attach finds it.
	out, _ = s.terminal("X=kept\n\x10\x11", "attach", id)
	s.contains("detach", out, "read escape sequence")
	s.equal("after detach", s.inspect(id, "{{.State.Running}}"), "true")
	out, _ = s.terminal("echo is-$X\nexit 6\n", "attach", id)
	s.contains("attached again", out, "is-kept")
	s.until(id, "{{.State.Status}} {{.State.ExitCode}}", "exited 6")
}

func TestAttach(t *testing.T) {
	s := newScene(t)
	// A detached container's stdin stays open when a client closes its own.
	id := s.running("-i", "busybox", "sh", "-c", "while read l && [ $l != end ]; do echo got $l; done; echo end >&2; exit 2")
	r := s.dockerIn("one\ntwo\nend\n", "attach", id)
	s.equal("output", r.out(), "got one\ngot two")
	s.contains("stderr", r.Stderr, "end")
	if r.Code != 2 {
		t.Errorf("attach ends with the container's code 2: %s", r)
	}
	s.fails(1, "cannot attach to a stopped container", "attach", id)
}

// A further process has the variables of links, as the first has.
func TestExecLinkVariables(t *testing.T) {
	s := newScene(t)
	other := s.name("db")
	s.idle("--name", other, "-e", "WORD=x")
	id := s.idle("--link", other+":db")
	s.equal("a variable of the link", s.ok("exec", id, "sh", "-c", "echo $DB_ENV_WORD"), "x")
	s.ok("rm", "-f", other)
	s.equal("without its other end", s.ok("exec", id, "sh", "-c", "echo .$DB_ENV_WORD"), ".")
}
