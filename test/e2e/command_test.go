package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// result is how a command ended.
type result struct {
	Args           []string
	Stdout, Stderr string
	Code           int // -1: killed, after the time limit
	Took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s\n  exit %d after %s\n  stdout: %s\n  stderr: %s",
		strings.Join(r.Args, " "), r.Code, r.Took.Round(time.Millisecond), cut(r.Stdout), cut(r.Stderr))
}

func cut(s string) string {
	if len(s) > 2000 {
		return s[:1000] + " ... " + s[len(s)-1000:]
	}
	return s
}

// out is the trimmed standard output.
func (r result) out() string { return strings.TrimSpace(r.Stdout) }

var commandLimit = max(3*busy, patient(60*time.Second))

// command runs a program with the daemon's environment.
func (d *daemon) command(limit time.Duration, stdin io.Reader, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = d.env()
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 20 * time.Second // what it wrote is read, on a busy machine too
	start := time.Now()
	err := cmd.Run()
	r := result{Args: append([]string{name}, args...), Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.Code, r.Stderr = -1, r.Stderr+fmt.Sprintf(" [killed after %s]", limit)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		r.Code, r.Stderr = -1, r.Stderr+err.Error()
	}
	return r
}

func (d *daemon) docker(args ...string) result {
	return d.command(commandLimit, nil, tools.docker, args...)
}

func (d *daemon) wharf(args ...string) result {
	return d.command(commandLimit, nil, tools.wharf, args...)
}

// writeProgram writes a script while nobody forks: a child between fork and
// exec would have it open for writing, and it could not be executed.
func writeProgram(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o755)
}

// eventually calls f until it returns nil or the time is over; see busy.
func eventually(limit time.Duration, f func() error) error {
	deadline := time.Now().Add(max(busy, patient(limit)))
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
