// Package logs reads containers' log files, while they are written, after the
// container's end and after a restart of the daemon, and removes them. They
// are written by package logfile, inside wharf-monitor; its comment has the
// formats.
//
// # Owns
//
// Nothing but descriptors of files that it reads. LogPlan.Path, the rotated
// Path.1 (the youngest), Path.2, ... and their ".gz" belong to the writer
// until Remove, and Path.sent to package ship.
//
// # Invariants
//
// Entries come in the order in which they were written, each once, also when
// files are rotated meanwhile, unless the writer has dropped a file that was
// not read yet. A torn or foreign piece of a file is skipped; it never ends
// the reading and never becomes an entry. A reader holds no lock that the
// writer wants.
package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// Room reads and removes logs. It has no state.
type Room struct{}

// New returns the room.
func New() *Room { return &Room{} }

// Read opens a container's log. When done is closed the container has ended:
// a following reader delivers the rest and ends. A driver whose output cannot
// be read back answers errdefs.ErrNotImplemented with Docker's text. A log
// that was not begun yet is empty.
func (*Room) Read(ctx context.Context, p model.LogPlan, r model.LogsRequest, done <-chan struct{}) (model.LogReader, error) {
	var f format
	switch {
	case p.Driver == logopts.JSONFile:
		f = jsonFormat{}
	case p.Driver == logopts.Local, logopts.Cached(p.Driver) && p.Path != "":
		f = &localFormat{}
	default:
		return nil, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("configured logging driver does not support reading (%s)", p.Driver))
	}
	if p.Path == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("log of %s: no path", p.ContainerName))
	}
	rd := newReader(ctx, p.Path, f, r, done)
	if err := rd.open(); err != nil {
		rd.free()
		return nil, fmt.Errorf("read log: %w", err)
	}
	return rd, nil
}

// Remove deletes a container's log files. None there is no error.
func (*Room) Remove(p model.LogPlan) error {
	if p.Path == "" {
		return nil
	}
	names, err := siblings(p.Path)
	if err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove log: %w", err)
		}
	}
	return nil
}

// siblings lists path and every rotated or half-compressed file of it.
func siblings(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok {
			continue
		}
		number := strings.TrimSuffix(strings.TrimSuffix(rest, ".tmp"), ".gz")
		if rest == "" || isNumber(number) || rest == ".sent" {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return out, nil
}

// isNumber reports whether s is "." and a rotation number.
func isNumber(s string) bool {
	s, ok := strings.CutPrefix(s, ".")
	n, err := strconv.Atoi(s)
	return ok && err == nil && n > 0
}

// rotated lists the numbers of rotated files, ascending: youngest first.
func rotated(path string) ([]int, error) {
	names, err := siblings(path)
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	for _, n := range names {
		s := strings.TrimSuffix(strings.TrimPrefix(n, path+"."), ".gz")
		if k, err := strconv.Atoi(s); err == nil {
			seen[k] = true
		}
	}
	var out []int
	for k := range seen {
		out = append(out, k)
	}
	sort.Ints(out)
	return out, nil
}
