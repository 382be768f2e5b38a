package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func (c *call) path() (string, error) {
	p := c.get("path")
	if p == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	return p, nil
}

func (c *call) setPathStat(st container.PathStat) error {
	raw, err := json.Marshal(st)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(raw))
	return nil
}

func (s *server) archiveStat(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	st, err := s.Containers.ArchiveStat(c.ctx(), c.name, p)
	if err != nil {
		return err
	}
	if err := c.setPathStat(st); err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (s *server) archiveGet(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	tar, st, err := s.Containers.ArchiveGet(c.ctx(), c.name, p)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	if err := c.setPathStat(st); err != nil {
		return err
	}
	return c.tar(tar)
}

func (s *server) archivePut(c *call) error {
	p, err := c.path()
	if err != nil {
		return err
	}
	err = s.Containers.ArchivePut(c.ctx(), c.name, p, model.PutOptions{
		NoOverwriteDirNonDir: c.truth("noOverwriteDirNonDir"),
		CopyUIDGID:           c.truth("copyUIDGID"),
	}, c.r.Body)
	if err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (s *server) export(c *call) error {
	tar, err := s.Containers.Export(c.ctx(), c.name)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	return c.tar(tar)
}

// tar sends an archive. A failure before the first byte is still an answer;
// later ones cut the connection.
func (c *call) tar(r io.Reader) error {
	c.w.Header().Set("Content-Type", "application/x-tar")
	_, err := io.Copy(c.w, r)
	if err != nil && !c.w.begun {
		c.w.Header().Del("Content-Type")
	}
	return err
}
