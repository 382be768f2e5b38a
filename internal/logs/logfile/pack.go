package logfile

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"sync/atomic"
)

// packer compresses a rotated file behind the writer's back.
type packer struct {
	done chan struct{} // nil: nothing was started
	quit atomic.Bool
}

// start compresses name to name.gz and then removes name. If that fails, name
// stays: the reader takes either.
func (p *packer) start(name string) {
	p.done = make(chan struct{})
	done := p.done
	go func() {
		defer close(done)
		tmp := name + ".gz.tmp"
		if err := p.compress(name, tmp); err != nil {
			_ = os.Remove(tmp)
			return
		}
		if os.Rename(tmp, name+".gz") == nil {
			_ = os.Remove(name)
		}
	}()
}

// wait returns when nothing is being compressed.
func (p *packer) wait() {
	if p.done != nil {
		<-p.done
	}
}

// stop gives the compression up: the container has ended and its exit is not
// to wait for it.
func (p *packer) stop() {
	p.quit.Store(true)
	p.wait()
}

var errStopped = errors.New("stopped")

func (p *packer) compress(name, tmp string) (err error) {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, stoppable{in, p}); err != nil {
		return err
	}
	return z.Close()
}

// stoppable ends a copy when the packer is to stop.
type stoppable struct {
	r io.Reader
	p *packer
}

func (s stoppable) Read(b []byte) (int, error) {
	if s.p.quit.Load() {
		return 0, errStopped
	}
	return s.r.Read(b)
}
