package runtime

import (
	"fmt"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/lean"
)

// hookRunner runs the hooks of the host's side.
type hookRunner struct {
	hooks *specs.Hooks
	state specs.State
}

func newHookRunner(p *Prepared) *hookRunner {
	return &hookRunner{hooks: p.Hooks, state: specs.State{
		Version: specs.Version, ID: p.ID, Bundle: p.Bundle, Annotations: p.Annotations,
	}}
}

// created runs prestart and createRuntime: namespaces are there, the root is
// not entered.
func (h *hookRunner) created(pid int) error {
	if h.hooks == nil {
		return nil
	}
	h.state.Pid, h.state.Status = pid, specs.StateCreating
	if err := runHooks("prestart", h.hooks.Prestart, h.state); err != nil { //nolint:staticcheck // deprecated, but in the spec
		return err
	}
	return runHooks("createRuntime", h.hooks.CreateRuntime, h.state)
}

// runHooks runs hooks in order, up to the first that fails.
func runHooks(kind string, hooks []specs.Hook, state specs.State) error {
	for i, hook := range hooks {
		if err := RunHook(hook, state); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

// poststart failures are warnings: the process runs.
func (h *hookRunner) poststart(p *Process) {
	if h == nil || h.hooks == nil {
		return
	}
	h.state.Pid, h.state.Status = p.Pid, specs.StateRunning
	for _, hook := range h.hooks.Poststart {
		if err := RunHook(hook, h.state); err != nil {
			p.Warnings = append(p.Warnings, "poststart hook: "+err.Error())
		}
	}
}

// Poststop runs the poststop hooks of a container that was removed. All of
// them run; what went wrong comes back as texts.
func Poststop(p *Prepared) (warnings []string) {
	if p.Hooks == nil {
		return nil
	}
	h := newHookRunner(p)
	h.state.Status = specs.StateStopped
	for _, hook := range p.Hooks.Poststop {
		if err := RunHook(hook, h.state); err != nil {
			warnings = append(warnings, "poststop hook: "+err.Error())
		}
	}
	return warnings
}

// RunHook runs one hook with the state on its standard input and waits for
// it, at most as long as its timeout.
func RunHook(h specs.Hook, state specs.State) error {
	data, err := lean.Marshal(state)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	out, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("hook output: %w", err)
	}
	output := os.NewFile(uintptr(out), "hook")
	defer output.Close()
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	env := h.Env
	if env == nil {
		env = []string{}
	}
	proc, err := os.StartProcess(h.Path, args, &os.ProcAttr{Env: env, Files: []*os.File{r, output, output}})
	_ = r.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", h.Path, err)
	}
	go func() { _, _ = w.Write(data); _ = w.Close() }()
	return waitHook(h, proc, output)
}

func waitHook(h specs.Hook, proc *os.Process, output *os.File) error {
	var timer *time.Timer
	if h.Timeout != nil && *h.Timeout > 0 {
		timer = time.AfterFunc(time.Duration(*h.Timeout)*time.Second, func() { _ = proc.Kill() })
	}
	state, err := proc.Wait()
	timedOut := timer != nil && !timer.Stop()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", h.Path, err)
	case timedOut:
		return fmt.Errorf("%s: hook ran past timeout of %d s", h.Path, *h.Timeout)
	case !state.Success():
		text := make([]byte, 4096)
		n, _ := output.ReadAt(text, 0)
		return fmt.Errorf("%s, stdout/stderr: %s (%s)", state, strings.TrimSpace(string(text[:n])), h.Path)
	}
	return nil
}
