package dockerapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/registry"

	"wharf/internal/model"
)

// Builds is the build room.
type Builds interface {
	// Build builds a Dockerfile. body is the context as a tar, unless
	// r.Remote says another.
	Build(ctx context.Context, r model.BuildRequest, body io.Reader, progress model.Progress) error
	// Cancel ends the build that a client called id.
	Cancel(ctx context.Context, id string) error
	Prune(ctx context.Context, p model.BuildPrune) (*build.CachePruneReport, error)
	// Records lists the build cache.
	Records(ctx context.Context) ([]build.CacheRecord, error)
	// Session attaches a client's files, secrets and credentials by an
	// upgraded connection until it ends; header is the request's.
	Session(ctx context.Context, conn net.Conn, header http.Header) error
	// GRPC serves BuildKit's API on an upgraded connection until it ends.
	GRPC(conn net.Conn) error
}

func (s *server) buildRoutes() []route {
	return need(s.Builds != nil, "build", []route{
		{method: "POST", path: "/build", handle: s.build},
		{method: "POST", path: "/build/cancel", since: 39, handle: func(c *call) error { return s.Builds.Cancel(c.ctx(), c.get("id")) }},
		{method: "POST", path: "/build/prune", since: 31, handle: s.buildPrune},
		{method: "POST", path: "/session", since: 31, handle: s.buildSession},
		{method: "POST", path: "/grpc", since: 31, handle: s.buildGRPC},
	})
}

// build answers in the classic builder's stream.
func (s *server) build(c *call) error {
	r, err := buildRequest(c)
	if err != nil {
		return err
	}
	out, ctx := newProgress(c)
	// Messages go out while the context still comes in.
	_ = out.rc.EnableFullDuplex()
	return out.end(s.Builds.Build(ctx, r, c.r.Body, out.send))
}

// buildRequest reads the query of POST /build.
func buildRequest(c *call) (model.BuildRequest, error) {
	r := model.BuildRequest{
		ID: c.get("buildid"), Session: c.get("session"), Remote: c.get("remote"), Dockerfile: c.get("dockerfile"),
		Target: c.get("target"), Platform: c.get("platform"), Tags: c.q["t"], ExtraHosts: c.q["extrahosts"], Network: c.get("networkmode"),
		CpusetCpus: c.get("cpusetcpus"), CpusetMems: c.get("cpusetmems"), CgroupParent: c.get("cgroupparent"),
		NoCache: c.truth("nocache"), Pull: c.truth("pull"), Quiet: c.truth("q"), Squash: c.truth("squash"), BuildKit: c.get("version") == "2",
	}
	for key, to := range map[string]*int64{
		"memory": &r.Memory, "memswap": &r.MemorySwap, "shmsize": &r.ShmSize,
		"cpushares": &r.CPUShares, "cpuperiod": &r.CPUPeriod, "cpuquota": &r.CPUQuota,
	} {
		if v := c.get(key); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return r, invalid("%s=%q: not a number", key, v)
			}
			*to = n
		}
	}
	for key, to := range map[string]any{
		"buildargs": &r.Args, "labels": &r.Labels, "cachefrom": &r.CacheFrom, "ulimits": &r.Ulimits, "outputs": &r.Outputs,
	} {
		if v := c.get(key); v != "" {
			if err := json.Unmarshal([]byte(v), to); err != nil {
				return r, invalid("%s=%q: %v", key, v, err)
			}
		}
	}
	if v := c.get("isolation"); v != "" && v != "default" {
		return r, invalid("isolation=%q: builds run as containers; leave it out", v)
	}
	r.Auth = buildAuth(c.r.Header.Get("X-Registry-Config"))
	return r, nil
}

// buildAuth reads the credentials for all registries; junk counts as none.
func buildAuth(header string) map[string]registry.AuthConfig {
	var all map[string]registry.AuthConfig
	if header != "" {
		_ = json.NewDecoder(base64.NewDecoder(base64.URLEncoding, strings.NewReader(header))).Decode(&all)
	}
	return all
}

// buildPrune clears the build cache.
func (s *server) buildPrune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	p := model.BuildPrune{All: c.truth("all")}
	for key, to := range map[string]*int64{
		"keep-storage": &p.Reserved, "reserved-space": &p.Reserved, "max-used-space": &p.Max, "min-free-space": &p.MinFree,
	} {
		v := c.get(key)
		if v == "" {
			continue
		}
		if *to, err = units.RAMInBytes(v); err != nil {
			return invalid("%s=%q: not a number of bytes", key, v)
		}
	}
	for key, values := range f {
		for v := range values {
			switch key {
			case "until", "unused-for":
				age, err := buildAge(v)
				if err != nil {
					return err
				}
				p.OlderThan = age
			case "id", "parent", "type", "description", "inuse", "shared", "private":
				p.Filters = append(p.Filters, buildFilter(key, v))
			default:
				return invalid("invalid filter '%s'", key)
			}
		}
	}
	rep, err := s.Builds.Prune(c.ctx(), p)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, rep)
}

// buildAge is how long ago text is: a duration, or a time.
func buildAge(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Since(time.Unix(n, 0)), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, invalid("until=%q: neither a duration (24h) nor a time", text)
	}
	return time.Since(t), nil
}

// buildFilter puts one filter into BuildKit's words.
func buildFilter(key, v string) string {
	switch key {
	case "id", "parent":
		return key + "~=" + v
	case "inuse", "shared", "private":
		if v == "" || v == "true" || v == "1" {
			return key
		}
		return key + "!=true"
	}
	return key + "==" + v
}

// buildSession hands the connection over.
func (s *server) buildSession(c *call) error {
	conn, err := upgradeH2C(c)
	if err != nil || conn == nil {
		return err
	}
	if err := s.Builds.Session(c.ctx(), conn, c.r.Header); err != nil {
		c.log.Debug("build session ended", "err", err)
	}
	return nil
}

// buildGRPC upgrades to HTTP/2 without TLS.
func (s *server) buildGRPC(c *call) error {
	conn, err := upgradeH2C(c)
	if err != nil || conn == nil {
		return err
	}
	if err := s.Builds.GRPC(conn); err != nil {
		c.log.Error("build connection", "err", err)
	}
	return nil
}

// upgradeH2C takes the connection over for HTTP/2 without TLS. nil without an
// error: the client has gone.
func upgradeH2C(c *call) (net.Conn, error) {
	if up := c.r.Header.Get("Upgrade"); up != "h2c" {
		return nil, invalid("Upgrade: %q: this endpoint speaks h2c only", up)
	}
	conn, rw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, err
	}
	c.w.begun = true
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, nil //nolint:nilerr // there is nobody to tell
	}
	return &wire{Conn: conn, in: rw.Reader}, nil
}

// Read reads what came with the request first.
func (w *wire) Read(p []byte) (int, error) {
	if w.in.Buffered() > 0 {
		return w.in.Read(p)
	}
	return w.Conn.Read(p)
}
