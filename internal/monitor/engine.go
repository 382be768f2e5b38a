package monitor

import (
	"encoding/json"
	"fmt"
	"os"

	"wharf/api/monitorapi"
	"wharf/internal/runtime"
)

// native is the engine that makes real containers.
type native struct{}

func (native) create(prepared json.RawMessage, f files) (process, error) {
	var p runtime.Prepared
	if err := json.Unmarshal(prepared, &p); err != nil {
		return nil, fmt.Errorf("prepared container: %w", err)
	}
	proc, err := runtime.Create(&p, f.runtime())
	if err != nil {
		return nil, err
	}
	return nativeProcess{proc}, nil
}

func (native) exec(pid int, prepared json.RawMessage, f files) (process, error) {
	var p runtime.PreparedExec
	if err := json.Unmarshal(prepared, &p); err != nil {
		return nil, fmt.Errorf("prepared exec: %w", err)
	}
	proc, err := runtime.Exec(pid, &p, f.runtime())
	if err != nil {
		return nil, err
	}
	return nativeProcess{proc}, nil
}

func (f files) runtime() runtime.Files {
	return runtime.Files{Stdin: f.stdin, Stdout: f.stdout, Stderr: f.stderr, User: f.user, Net: f.net}
}

type nativeProcess struct{ p *runtime.Process }

func (n nativeProcess) pid() int           { return n.p.Pid }
func (n nativeProcess) start() error       { return n.p.Start() }
func (n nativeProcess) console() *os.File  { return n.p.Console }
func (n nativeProcess) warnings() []string { return n.p.Warnings }

func (n nativeProcess) trace() (t trace) {
	for _, s := range n.p.Trace {
		t = append(t, monitorapi.Step{Name: s.Name, At: s.At})
	}
	return t
}
func (n nativeProcess) close() { _ = n.p.Close() }
