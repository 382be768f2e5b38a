package model

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// State is where a container stands.
type State struct {
	Phase      Phase             `json:"phase"`
	Pid        int               `json:"pid,omitempty"`
	StartedAt  time.Time         `json:"startedAt,omitzero"`
	FinishedAt time.Time         `json:"finishedAt,omitzero"`
	ExitCode   int               `json:"exitCode"`
	Error      string            `json:"error,omitempty"`
	OOMKilled  bool              `json:"oomKilled,omitempty"`
	Health     *container.Health `json:"health,omitempty"`
	End        *End              `json:"end,omitempty"` // why the last run ended, or could not begin; nil: neither has happened
}

// Phase is a container's state in Docker's words.
type Phase = container.ContainerState

// next lists, for each phase, the phases that may follow it. "running" after
// "running" is a restart seen from outside and goes through "exited".
var next = map[Phase][]Phase{
	"":                        {container.StateCreated},
	container.StateCreated:    {container.StateRunning, container.StateExited, container.StateRemoving},
	container.StateRunning:    {container.StatePaused, container.StateExited, container.StateRestarting},
	container.StatePaused:     {container.StateRunning, container.StateExited, container.StateRestarting},
	container.StateRestarting: {container.StateRunning, container.StateExited, container.StateRemoving},
	container.StateExited:     {container.StateRunning, container.StateRestarting, container.StateRemoving},
	container.StateRemoving:   {container.StateDead},
	container.StateDead:       {container.StateRemoving},
}

// To returns the state moved to phase p, or an errdefs conflict that names
// both phases.
func (s State) To(p Phase) (State, error) {
	for _, n := range next[s.Phase] {
		if n == p {
			s.Phase = p
			return s, nil
		}
	}
	return s, fmt.Errorf("container is %s and cannot become %s: %w", s.Phase, p, errdefs.ErrConflict)
}

// Running reports whether a process exists: running or paused. Restarting is
// the wait between two processes.
func (s State) Running() bool {
	return s.Phase == container.StateRunning || s.Phase == container.StatePaused
}
