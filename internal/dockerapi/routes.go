package dockerapi

import (
	"sort"
	"strings"
)

// handler serves one endpoint. Its error becomes the answer.
type handler func(c *call) error

// route is one endpoint. In path "{}" stands for a name of one or more
// segments, at most once.
type route struct {
	method, path string
	since        version // not there in older versions
	missing      string  // why it is not there: 501 with this text
	handle       handler
}

// routes finds a route: literal paths first, then those with a name by their
// first segment, the longest tail first.
type routes struct {
	literal map[string]*route            // "GET /containers/json"
	named   map[string]map[string][]tail // first segment, method
}

type tail struct {
	suffix string // "/attach/ws", or ""
	route  *route
}

func compile(table []route) routes {
	rs := routes{literal: map[string]*route{}, named: map[string]map[string][]tail{}}
	for i := range table {
		r := &table[i]
		head, suffix, named := strings.Cut(r.path, "{}")
		if !named {
			rs.literal[r.method+" "+r.path] = r
			continue
		}
		head = strings.Trim(head, "/")
		if rs.named[head] == nil {
			rs.named[head] = map[string][]tail{}
		}
		tails := append(rs.named[head][r.method], tail{suffix, r})
		sort.SliceStable(tails, func(a, b int) bool { return len(tails[a].suffix) > len(tails[b].suffix) })
		rs.named[head][r.method] = tails
	}
	return rs
}

// find returns the route and the name in the path. Doubled slashes count as
// one: old clients put a container's "/name" into a path.
func (rs routes) find(method, path string) (*route, string, bool) {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	if r := rs.literal[method+" "+path]; r != nil {
		return r, "", true
	}
	head, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok {
		return nil, "", false
	}
	for _, t := range rs.named[head][method] {
		if name, ok := strings.CutSuffix(rest, t.suffix); ok && name != "" {
			return t.route, name, true
		}
	}
	return nil, "", false
}

// table lists every endpoint.
func (s *server) table() []route {
	var t []route
	for _, part := range [][]route{
		s.systemRoutes(), s.containerRoutes(), s.execRoutes(), s.imageRoutes(),
		s.networkRoutes(), s.volumeRoutes(), s.buildRoutes(), absentRoutes(),
	} {
		t = append(t, part...)
	}
	return t
}

// need marks routes as missing when their room is.
func need(there bool, room string, rs []route) []route {
	if there {
		return rs
	}
	for i := range rs {
		rs[i].missing = "this daemon runs without the " + room + " room"
	}
	return rs
}
