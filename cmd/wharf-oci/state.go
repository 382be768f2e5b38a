package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// record is state.json.
type record struct {
	ID        string            `json:"id"`
	Pid       int               `json:"init_process_pid"`
	StartTime uint64            `json:"init_process_start"` // tells a recycled pid
	Bundle    string            `json:"bundle"`
	Rootfs    string            `json:"rootfs"`
	Created   time.Time         `json:"created"`
	Cgroup    string            `json:"cgroup_path"`
	Prepared  *runtime.Prepared `json:"prepared"`             // for hooks
	RootMount uint64            `json:"root_mount,omitempty"` // at Rootfs, where there is no mount namespace of the container's own
}

// container is one container's record and its directory.
type container struct {
	record
	dir  string
	spec *specs.Spec
	pids *specs.LinuxPids // to be set once the process is ready (earlyPids)
}

var idPattern = regexp.MustCompile(`^[\w+.-]+$`)

func (g *global) dir(id string) (string, error) {
	if !idPattern.MatchString(id) || id == "." || id == ".." {
		return "", fmt.Errorf("invalid container ID format: %q (letters, digits, and _+-.)", id)
	}
	return filepath.Join(g.root, id), nil
}

func (g *global) load(id string) (*container, error) {
	dir, err := g.dir(id)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container does not exist: %s", id)
	}
	if err != nil {
		return nil, err
	}
	c := &container{dir: dir}
	if err := json.Unmarshal(data, &c.record); err != nil {
		return nil, fmt.Errorf("state of %s: %w", id, err)
	}
	c.spec, err = readSpec(filepath.Join(dir, "config.json"))
	return c, err
}

func (c *container) save() error {
	data, err := json.Marshal(&c.record)
	if err != nil {
		return err
	}
	tmp := filepath.Join(c.dir, "state.json.new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.dir, "state.json"))
}

func readSpec(file string) (*specs.Spec, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", filepath.Base(file))
	}
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &s, nil
}

// status is the spec's word for what the container does now.
func (c *container) status() specs.ContainerState {
	if !c.alive() {
		return specs.StateStopped
	}
	if _, err := os.Lstat(c.fifo()); err == nil {
		return specs.StateCreated
	}
	if c.group().Frozen() {
		return "paused"
	}
	return specs.StateRunning
}

func (c *container) fifo() string { return filepath.Join(c.dir, "exec.fifo") }

func (c *container) group() *cgroup.Group { return cgroup.Open(c.Cgroup) }

func (c *container) alive() bool {
	start, state, err := procStat(c.Pid)
	return err == nil && start == c.StartTime && state != 'Z' && state != 'X'
}

// procStat reads a process's start time and state (proc_pid_stat(5)).
func procStat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, 0, errors.New("unexpected /proc/PID/stat")
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0][0], err
}

// ociState is what "state" prints: the spec's fields and runc's, in runc's
// order.
type ociState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (c *container) state() ociState {
	s := ociState{Version: specs.Version, ID: c.ID, Status: c.status(), Bundle: c.Bundle, Rootfs: c.Rootfs,
		Created: c.Created, Annotations: c.spec.Annotations}
	if s.Status != specs.StateStopped {
		s.Pid = c.Pid
	}
	return s
}

// bundle is the container as prepare wants it.
func (c *container) bundle() *model.Bundle {
	return &model.Bundle{ID: model.ID(c.ID), Spec: c.spec, Rootfs: model.Rootfs{Dir: c.Rootfs}}
}

// destroy removes everything that a stopped container holds.
func (c *container) destroy(g *global) error {
	if err := c.group().Remove(); err != nil {
		return err
	}
	if err := runtime.DropRoot(c.Rootfs, c.RootMount); err != nil {
		return err
	}
	if c.Prepared != nil {
		g.warn(runtime.Poststop(c.Prepared))
	}
	return os.RemoveAll(c.dir)
}

// signal reaches the first process, and never another that took its pid.
func (c *container) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !c.alive() {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}
