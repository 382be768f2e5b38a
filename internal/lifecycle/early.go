package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"wharf/internal/driver"
)

// early is a start that the driver has begun before the network is attached
// and the files of /etc are written. The program is executed when both are
// there.
type early struct {
	ready chan error // what the driver waits for; one value
	done  chan struct{}
	netns *os.File // ours, for the sandbox is the driver's

	inst driver.Instance // these are set when done is closed
	err  error
}

var errAbandoned = errors.New("the start was given up")

// beginInstance lets the driver begin, if it can: making a container and
// attaching a network take about as long, and neither needs the other. Hooks
// are another matter: they may look at the network.
func (s *starter) beginInstance(ctx context.Context, r *run) error {
	d, ok := r.drv.(driver.Early)
	path := r.sandbox.Netns()
	if !ok || path == "" || r.bundle.Spec.Hooks != nil {
		return nil
	}
	for _, name := range etcNames { // they are bound before they are written
		f, err := os.OpenFile(filepath.Join(s.dir(r.e.id), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = errors.Join(f.Chmod(0o644), f.Close()) // whatever the umask
		}
		if err != nil {
			return wrap(err, "make %s of %s", name, r.e.id.Short())
		}
	}
	netns, err := os.Open(path)
	if err != nil {
		return wrap(err, "network namespace of %s", r.e.id.Short())
	}
	x := &early{ready: make(chan error, 1), done: make(chan struct{}), netns: netns}
	b, sb := r.bundle, r.sandbox
	r.early, r.sandbox = x, nil
	go func() {
		defer close(x.done)
		x.inst, x.err = d.StartWhen(ctx, b, sb, x.wait)
	}()
	return nil
}

func (x *early) wait(ctx context.Context) error {
	select {
	case err := <-x.ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end gives the driver the word and returns its result.
func (x *early) end(word error) (driver.Instance, error) {
	x.ready <- word
	<-x.done
	_ = x.netns.Close()
	return x.inst, x.err
}

// abandon ends a start that was begun and did not come to its own step.
func (s *starter) abandon(ctx context.Context, r *run) error {
	x := r.early
	if r.early = nil; x == nil {
		return nil
	}
	_, _ = x.end(errAbandoned)
	return s.releaseInstance(ctx, r)
}

// netns is the path of the network namespace to attach.
func (r *run) netns() string {
	if r.early != nil {
		return "/proc/self/fd/" + strconv.Itoa(int(r.early.netns.Fd()))
	}
	return r.sandbox.Netns()
}
