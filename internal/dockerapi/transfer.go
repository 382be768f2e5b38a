package dockerapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// progressTimeout is how long a client may stall a transfer: layers wait for
// the messages about them.
const progressTimeout = 2 * time.Minute

// progress is an answer made of progress messages. It begins with the first
// one; until then an error is a plain answer. Send may be called from several
// goroutines.
type progress struct {
	c      *call
	rc     *http.ResponseController
	cancel context.CancelFunc

	mu     sync.Mutex
	enc    *json.Encoder
	broken bool
}

// newProgress returns the answer and the context of the work, which ends when
// the client leaves or takes no more messages.
func newProgress(c *call) (*progress, context.Context) {
	ctx, cancel := context.WithCancel(c.ctx())
	p := &progress{c: c, rc: http.NewResponseController(c.w), cancel: cancel, enc: json.NewEncoder(c.w)}
	p.enc.SetEscapeHTML(false)
	return p, ctx
}

// send is a model.Progress.
func (p *progress) send(msg any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return
	}
	p.header()
	if !sendWithin(p.rc, progressTimeout, func() error { return p.enc.Encode(msg) }) {
		p.broken = true
		p.cancel()
	}
}

// begin begins the answer without a message.
func (p *progress) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.header()
}

func (p *progress) header() {
	if !p.c.w.begun {
		p.c.w.Header().Set("Content-Type", "application/json")
		p.c.w.WriteHeader(http.StatusOK)
	}
}

// failure is how an error stands in a stream. "error" is for older clients.
type failure struct {
	Detail struct {
		Code    int    `json:"code,omitempty"`
		Message string `json:"message"`
	} `json:"errorDetail"`
	Error string `json:"error"`
}

// end ends the answer: an error goes into the stream when that has begun.
func (p *progress) end(err error) error {
	defer p.cancel()
	p.mu.Lock()
	begun := p.c.w.begun
	p.mu.Unlock()
	if err != nil && begun {
		var f failure
		f.Detail.Message, f.Error = err.Error(), err.Error()
		if p.c.ctx().Err() == nil {
			p.send(f)
		}
		return nil
	}
	if err == nil {
		p.begin()
	}
	return err
}

// registryAuth reads the credentials that came with the request; nil without.
// What cannot be decoded counts as none, as Docker has it: old clients send
// junk there.
func (c *call) registryAuth() *registry.AuthConfig {
	a, err := authconfig.Decode(c.r.Header.Get(registry.AuthHeader))
	if err != nil || a == nil || *a == (registry.AuthConfig{}) {
		return nil
	}
	return a
}

func (s *server) pullOrImport(c *call) error {
	switch {
	case c.get("fromImage") != "":
		return s.pull(c)
	case c.get("fromSrc") == "-":
		return s.importRoot(c, c.r.Body, "-")
	case c.get("fromSrc") != "":
		body, err := s.Images.Download(c.ctx(), c.get("fromSrc"))
		if err != nil {
			return err
		}
		defer body.Close()
		return s.importRoot(c, body, c.get("fromSrc"))
	}
	return invalid("fromImage or fromSrc must be given")
}

// pullRef joins name and tag; the tag may also be a digest. Without either
// all tags of the repository are meant.
func pullRef(name, tag string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(strings.TrimSuffix(name, ":"))
	if err != nil {
		return "", invalid("image name %q: %v", name, err)
	}
	if d, derr := digest.Parse(tag); tag != "" && derr == nil {
		ref, err = reference.WithDigest(reference.TrimNamed(ref), d)
	} else if tag != "" {
		ref, err = reference.WithTag(reference.TrimNamed(ref), tag)
	}
	if err != nil {
		return "", invalid("tag %q: %v", tag, err)
	}
	if reference.FamiliarName(ref) == "scratch" {
		return "", &statusError{http.StatusForbidden, "'scratch' is a reserved name"}
	}
	return reference.FamiliarString(ref), nil
}

func (s *server) pull(c *call) error {
	platform, err := c.platform("platform", 32)
	if err != nil {
		return err
	}
	ref, err := pullRef(c.get("fromImage"), c.get("tag"))
	if err != nil {
		return err
	}
	p, ctx := newProgress(c)
	return p.end(s.Images.Pull(ctx, ref, platform, c.registryAuth(), p.send))
}

func (s *server) importRoot(c *call, body io.Reader, from string) error {
	platform, err := c.platform("platform", 32)
	if err != nil {
		return err
	}
	if _, err := taggedRef(c.get("repo"), c.get("tag")); err != nil {
		return err
	}
	message := c.get("message")
	if message == "" {
		message = "Imported from " + from
	}
	p, ctx := newProgress(c)
	return p.end(s.Images.Import(ctx, body, c.get("repo"), c.get("tag"), message, c.lines("changes"), platform, p.send))
}

func (s *server) push(c *call) error {
	platform, err := c.platformJSON("platform", 46)
	if err != nil {
		return err
	}
	ref, err := pullRef(c.name, c.get("tag"))
	if err != nil {
		return err
	}
	p, ctx := newProgress(c)
	return p.end(s.Images.Push(ctx, ref, platform, c.registryAuth(), p.send))
}

func (s *server) load(c *call) error {
	platforms, err := c.platformsJSON("platform", 48, 52)
	if err != nil {
		return err
	}
	p, ctx := newProgress(c)
	err = s.Images.Load(ctx, c.r.Body, platforms, c.truthOr("quiet", true), p.send)
	if err != nil && c.ctx().Err() == nil {
		p.begin() // Docker says every failure of a load in the stream, and clients look for it there
	}
	return p.end(err)
}

// save sends one image or several. Nothing in an archive can say that it is
// not whole, so a failure on the way cuts the connection.
func (s *server) save(c *call) error {
	names := c.q["names"]
	if c.name != "" {
		names = []string{c.name}
	}
	if len(names) == 0 {
		return invalid("names: no image given")
	}
	platforms, err := c.platformsJSON("platform", 48, 52)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	if err := s.Images.Save(c.ctx(), names, platforms, c.w); err != nil {
		if !c.w.begun {
			c.w.Header().Del("Content-Type")
		}
		return err
	}
	return nil
}
