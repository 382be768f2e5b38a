package dockerapi

import (
	"net/http"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func (s *server) execRoutes() []route {
	return need(s.Containers != nil, "container", []route{
		{method: "POST", path: "/containers/{}/exec", handle: s.execCreate},
		{method: "POST", path: "/exec/{}/start", handle: s.execStart},
		{method: "POST", path: "/exec/{}/resize", handle: s.execResize},
		{method: "GET", path: "/exec/{}/json", handle: s.execInspect},
	})
}

func (s *server) execCreate(c *call) error {
	var r container.ExecCreateRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if len(r.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if c.v < 42 {
		r.ConsoleSize = nil
	}
	if _, err := parseDetach(r.DetachKeys); err != nil {
		return err
	}
	id, err := s.Containers.ExecCreate(c.ctx(), c.name, model.ExecRequest{
		User: r.User, Privileged: r.Privileged, Tty: r.Tty, ConsoleSize: r.ConsoleSize,
		AttachStdin: r.AttachStdin, AttachStdout: r.AttachStdout, AttachStderr: r.AttachStderr,
		DetachKeys: r.DetachKeys, Env: r.Env, WorkingDir: r.WorkingDir, Cmd: r.Cmd,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// execStart starts an exec. Once the exec is known to exist the connection is
// taken over, before the start, whatever that brings: clients show what comes
// through it and ask for the exit code afterwards (127 for a command that is
// not there), but of a plain answer they show nothing but its status. And
// docker-py loses output that arrives together with the header.
func (s *server) execStart(c *call) error {
	var r container.ExecStartRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if c.v < 42 || !r.Tty {
		r.ConsoleSize = nil
	}
	if r.Detach {
		if _, err := s.Containers.ExecStart(c.ctx(), c.name, true, r.ConsoleSize); err != nil {
			return err
		}
		return c.done(http.StatusOK)
	}
	e, err := s.Containers.ExecInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	w, err := c.hijack(!r.Tty)
	if err != nil {
		return err
	}
	stream, err := s.Containers.ExecStart(c.ctx(), c.name, false, r.ConsoleSize)
	if err != nil {
		defer w.finish()
		w.settle()
		out := frames{w: w, multi: !r.Tty}
		return c.ended(out.write(model.Stderr, []byte(err.Error()+"\r\n")))
	}
	ses := &session{stream: stream, stdin: e.OpenStdin, multi: !r.Tty}
	if e.ProcessConfig != nil && e.ProcessConfig.Tty {
		// The form that the client typed at create, as the room keeps it.
		if ses.keys, err = parseDetach(string(e.DetachKeys)); err != nil {
			ses.keys = defaultDetach
		}
	}
	return c.ended(w.serve(ses))
}

func (s *server) execResize(c *call) error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	if err := s.Containers.ExecResize(c.ctx(), c.name, h, w); err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (s *server) execInspect(c *call) error {
	e, err := s.Containers.ExecInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, e)
}
