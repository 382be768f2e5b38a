package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"wharf/internal/lean"
)

const (
	// shipperTime bounds the shipper's start: it connects to the collector.
	shipperTime = 30 * time.Second
	// shipperPause is the wait before a shipper that died is started again;
	// it grows with each.
	shipperPause = time.Second
)

// shipper is a wharf-logger process. It gets the plan as a line on its stdin,
// which then stays open while the container runs, and answers with a line on
// its stdout, which then stays open while it runs: "ok", or why it cannot.
// When stdin ends it sends the rest and ends by itself.
type shipper struct {
	plan []byte
	path string
	id   string

	mu    sync.Mutex
	life  *os.File // its stdin, our end; nil after end
	ended bool
}

func startShipper(p Plan) (*shipper, error) {
	if p.Logger == "" {
		return nil, fmt.Errorf("log driver %s: the program that sends logs (wharf-logger) is not known here", p.Driver)
	}
	b, err := lean.Marshal(p)
	if err != nil {
		return nil, err
	}
	s := &shipper{plan: append(b, '\n'), path: p.Logger, id: p.ContainerID}
	proc, out, err := s.start()
	if err != nil {
		return nil, err
	}
	go s.keep(proc, out)
	return s, nil
}

// start starts the process and waits for its answer.
func (s *shipper) start() (_ *os.Process, out *os.File, err error) {
	theirs, life, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	out, answer, err := os.Pipe()
	if err != nil {
		_ = life.Close()
		return nil, nil, err
	}
	defer answer.Close()
	proc, err := os.StartProcess(s.path, []string{"wharf-logger", s.id}, &os.ProcAttr{Files: []*os.File{theirs, answer, os.Stderr}, Dir: ""})
	if err != nil {
		return nil, nil, errors.Join(err, life.Close(), out.Close())
	}
	_ = answer.Close() // else we would never read its end
	_, err = life.Write(s.plan)
	if err == nil {
		err = hear(out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.ended {
		_ = life.Close()
		if err != nil {
			_ = proc.Kill()
			_, _ = proc.Wait()
			return nil, nil, errors.Join(err, out.Close())
		}
		return proc, out, nil
	}
	s.life = life
	return proc, out, nil
}

// hear reads the answer.
func hear(out *os.File) error {
	_ = out.SetReadDeadline(time.Now().Add(shipperTime))
	defer func() { _ = out.SetReadDeadline(time.Time{}) }()
	var got []byte
	b := make([]byte, 512)
	for {
		n, err := out.Read(b)
		got = append(got, b[:n]...)
		if line, _, ok := bytes.Cut(got, []byte{'\n'}); ok {
			if string(line) == "ok" {
				return nil
			}
			return errors.New(string(line))
		}
		if err != nil {
			return fmt.Errorf("wharf-logger does not answer: %w %s", err, strings.TrimSpace(string(got)))
		}
	}
}

// keep waits for the process's end, which is its stdout's, and starts it again
// while the container runs: it goes on where it was.
func (s *shipper) keep(proc *os.Process, out *os.File) {
	pause := shipperPause
	for {
		if proc != nil {
			_, _ = out.Read(make([]byte, 1)) // nothing more is said
			_ = out.Close()
			_, _ = proc.Wait()
		}
		s.mu.Lock()
		if s.life != nil {
			_ = s.life.Close()
			s.life = nil
		}
		ended := s.ended
		s.mu.Unlock()
		if ended {
			return
		}
		fmt.Fprintln(os.Stderr, "wharf-logger has ended and is started again")
		time.Sleep(pause)
		pause = min(2*pause, time.Minute)
		var err error
		if proc, out, err = s.start(); err != nil {
			fmt.Fprintln(os.Stderr, "wharf-logger:", err)
			proc = nil
		}
	}
}

// end tells the process that nothing more comes. It is not waited for.
func (s *shipper) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.life != nil {
		_ = s.life.Close()
		s.life = nil
	}
}
