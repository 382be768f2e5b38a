package monitor

import (
	"fmt"
	"os"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
	"wharf/internal/runtime"
)

// native is the engine that makes real containers.
type native struct{}

func (native) Create(st *monitorapi.Start, f Files) (Process, error) {
	var p runtime.Prepared
	if err := lean.Unmarshal(st.Prepared, &p); err != nil {
		return nil, fmt.Errorf("prepared container: %w", err)
	}
	proc, err := runtime.Create(&p, f.runtime())
	if err != nil {
		return nil, err
	}
	return nativeProcess{proc}, nil
}

func (native) Exec(main Process, e *monitorapi.Exec, f Files) (Process, error) {
	var p runtime.PreparedExec
	if err := lean.Unmarshal(e.Prepared, &p); err != nil {
		return nil, fmt.Errorf("prepared exec: %w", err)
	}
	proc, err := runtime.Exec(main.Pid(), &p, f.runtime())
	if err != nil {
		return nil, err
	}
	return nativeProcess{proc}, nil
}

func (f Files) runtime() runtime.Files {
	return runtime.Files{Stdin: f.Stdin, Stdout: f.Stdout, Stderr: f.Stderr, User: f.User, Net: f.Net}
}

type nativeProcess struct{ p *runtime.Process }

func (n nativeProcess) Pid() int           { return n.p.Pid }
func (n nativeProcess) Start() error       { return n.p.Start() }
func (n nativeProcess) Console() *os.File  { return n.p.Console }
func (n nativeProcess) Warnings() []string { return n.p.Warnings }

func (n nativeProcess) Trace() []monitorapi.Step {
	t := make([]monitorapi.Step, 0, len(n.p.Trace))
	for _, s := range n.p.Trace {
		t = append(t, monitorapi.Step{Name: s.Name, At: s.At})
	}
	return t
}
func (n nativeProcess) Close() { _ = n.p.Close() }
