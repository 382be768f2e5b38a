package dockerapi

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func (s *server) containerRoutes() []route {
	return need(s.Containers != nil, "container", []route{
		{method: "GET", path: "/containers/json", handle: s.listContainers},
		{method: "POST", path: "/containers/create", handle: s.createContainer},
		{method: "POST", path: "/containers/prune", since: 25, handle: s.pruneContainers},
		{method: "GET", path: "/containers/{}/json", handle: s.inspectContainer},
		{method: "GET", path: "/containers/{}/top", handle: s.top},
		{method: "GET", path: "/containers/{}/logs", handle: s.logs},
		{method: "GET", path: "/containers/{}/changes", handle: s.changes},
		{method: "GET", path: "/containers/{}/export", handle: s.export},
		{method: "GET", path: "/containers/{}/stats", handle: s.stats},
		{method: "POST", path: "/containers/{}/resize", handle: s.resize},
		{method: "POST", path: "/containers/{}/start", handle: s.start},
		{method: "POST", path: "/containers/{}/stop", handle: s.stop},
		{method: "POST", path: "/containers/{}/restart", handle: s.restart},
		{method: "POST", path: "/containers/{}/kill", handle: s.kill},
		{method: "POST", path: "/containers/{}/update", handle: s.update},
		{method: "POST", path: "/containers/{}/rename", handle: s.rename},
		{method: "POST", path: "/containers/{}/pause", handle: s.pause},
		{method: "POST", path: "/containers/{}/unpause", handle: s.unpause},
		{method: "POST", path: "/containers/{}/attach", handle: s.attach},
		{method: "GET", path: "/containers/{}/attach/ws", handle: s.attachWS},
		{method: "POST", path: "/containers/{}/wait", handle: s.wait},
		{method: "DELETE", path: "/containers/{}", handle: s.removeContainer},
		{method: "HEAD", path: "/containers/{}/archive", handle: s.archiveStat},
		{method: "GET", path: "/containers/{}/archive", handle: s.archiveGet},
		{method: "PUT", path: "/containers/{}/archive", handle: s.archivePut},
		{method: "POST", path: "/commit", handle: s.commit},
	})
}

func (s *server) listContainers(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 0)
	if err != nil {
		return err
	}
	all, err := s.Containers.List(c.ctx(), model.ListRequest{
		All: c.truth("all"), Size: c.truth("size"), Limit: limit, Filters: f,
	})
	if err != nil {
		return err
	}
	for i := range all {
		if c.v < 46 {
			all[i].HostConfig.Annotations = nil
		}
		if c.v < 48 {
			all[i].ImageManifestDescriptor = nil
		}
		if c.v < 52 {
			all[i].Health = nil
		}
	}
	return c.json(http.StatusOK, list(all))
}

// wait sends its header at once, so that a client knows that the wait has
// begun before it starts the container.
func (s *server) wait(c *call) error {
	cond := container.WaitConditionNotRunning
	if text := c.get("condition"); text != "" && c.v >= 30 {
		cond = container.WaitCondition(text)
		switch cond {
		case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
		default:
			return invalid("invalid condition: %q", text)
		}
	}
	result, err := s.Containers.Wait(c.ctx(), c.name, cond)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	if c.v >= 30 {
		c.w.WriteHeader(http.StatusOK)
		c.flush()
	}
	select {
	case <-c.ctx().Done():
		return nil
	case r, ok := <-result:
		if !ok {
			return c.ctx().Err()
		}
		answer := container.WaitResponse{StatusCode: int64(r.Code)}
		if r.Error != "" {
			answer.Error = &container.WaitExitError{Message: r.Error}
		}
		return json.NewEncoder(c.w).Encode(answer)
	}
}

// checkpointName is what a checkpoint may be called.
var checkpointName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func (s *server) start(c *call) error {
	if c.r.ContentLength > 7 || c.r.ContentLength == -1 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if id := c.get("checkpoint"); id != "" || c.get("checkpoint-dir") != "" {
		if !checkpointName.MatchString(id) {
			return invalid("invalid checkpoint ID %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", id)
		}
		return notThere("starting from a checkpoint")
	}
	if err := s.Containers.Start(c.ctx(), c.name); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (c *call) stopRequest() (model.StopRequest, error) {
	var r model.StopRequest
	if c.v >= 42 {
		r.Signal = c.get("signal")
	}
	if text := c.get("t"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return r, invalid("t=%q: not a number of seconds", text)
		}
		r.Timeout = &n
	}
	return r, nil
}

func (s *server) stop(c *call) error {
	r, err := c.stopRequest()
	if err == nil {
		err = s.Containers.Stop(c.ctx(), c.name, r)
	}
	if err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) restart(c *call) error {
	r, err := c.stopRequest()
	if err == nil {
		err = s.Containers.Restart(c.ctx(), c.name, r)
	}
	if err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) kill(c *call) error {
	if err := s.Containers.Kill(c.ctx(), c.name, c.get("signal")); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) pause(c *call) error {
	if err := s.Containers.Pause(c.ctx(), c.name); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) unpause(c *call) error {
	if err := s.Containers.Unpause(c.ctx(), c.name); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) rename(c *call) error {
	if err := s.Containers.Rename(c.ctx(), c.name, c.get("name")); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) update(c *call) error {
	var u container.UpdateConfig
	if err := c.body(&u); err != nil {
		return err
	}
	if c.v < 40 {
		u.PidsLimit = nil
	}
	if c.v < 55 { // older clients sent these and they were not looked at
		u.BlkioWeightDevice = nil
		u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
	if u.PidsLimit != nil && *u.PidsLimit <= 0 {
		u.PidsLimit = new(int64) // 0: unlimited
	}
	answer, err := s.Containers.Update(c.ctx(), c.name, u)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, answer)
}

func (s *server) resize(c *call) error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	if err := s.Containers.Resize(c.ctx(), c.name, h, w); err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (s *server) top(c *call) error {
	t, err := s.Containers.Top(c.ctx(), c.name, c.get("ps_args"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, t)
}

func (s *server) changes(c *call) error {
	ch, err := s.Containers.Changes(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, ch) // null for none, as Docker
}

func (s *server) removeContainer(c *call) error {
	if strings.Contains(c.name, "/checkpoints/") {
		return notThere("checkpoint and restore")
	}
	err := s.Containers.Remove(c.ctx(), c.name, model.RemoveRequest{
		Force: c.truth("force"), Volumes: c.truth("v"), Link: c.truth("link"),
	})
	if err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) pruneContainers(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	report, err := s.Containers.Prune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (s *server) commit(c *call) error {
	var body struct{ *container.Config }
	if err := c.body(&body); err != nil {
		return err
	}
	if _, err := taggedRef(c.get("repo"), c.get("tag")); err != nil {
		return err
	}
	id, err := s.Containers.Commit(c.ctx(), c.get("container"), model.CommitRequest{
		Repo: c.get("repo"), Tag: c.get("tag"),
		Comment: c.get("comment"), Author: c.get("author"),
		Changes: c.lines("changes"),
		Pause:   c.truthOr("pause", true),
		Config:  body.Config,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, container.CommitResponse{ID: id})
}

// stats sends a reading a second, or one.
func (s *server) stats(c *call) error {
	stream := c.truthOr("stream", true)
	oneShot := c.v >= 41 && c.truth("one-shot")
	c.w.Header().Set("Content-Type", "application/json")
	rc := http.NewResponseController(c.w)
	enc := json.NewEncoder(c.w)
	err := s.Containers.Stats(c.ctx(), c.name, stream, oneShot, func(st *container.StatsResponse) bool {
		if c.v < 52 && st.OSType != "" {
			old := *st
			old.OSType = ""
			st = &old
		}
		return sendWithin(rc, eventTimeout, func() error { return enc.Encode(st) }) && stream
	})
	if c.ctx().Err() != nil {
		return nil
	}
	return err
}
