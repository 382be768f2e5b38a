package e2e

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// pageFields are the rows of docs/compatibility-fields.md: section, field, row.
type pageFields map[string]map[string]*pageField

type pageField struct {
	typ, state, note string
	seen             bool
}

func readPage(t *testing.T) pageFields {
	t.Helper()
	raw, err := os.ReadFile("../../docs/compatibility-fields.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^\| ([^|]+) \| ([^|]*) \| (yes|partly|no) \| ([^|]*)\|$`)
	p, section := pageFields{}, ""
	for _, l := range strings.Split(string(raw), "\n") {
		if s, ok := strings.CutPrefix(l, "## "); ok {
			section = s
			if p[section] == nil {
				p[section] = map[string]*pageField{}
			}
		} else if m := line.FindStringSubmatch(l); m != nil {
			p[section][m[1]] = &pageField{typ: m[2], state: m[3], note: m[4]}
		}
	}
	return p
}

// see notes the fields of an answer of the section's kind, and goes into those
// that have a section of their own.
func (p pageFields) see(section, prefix string, v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			p.see(section, prefix, e)
		}
	case map[string]any:
		for name, e := range v {
			f := p[section][prefix+name]
			if f == nil || e == nil {
				continue
			}
			f.seen = true
			p.into(section, prefix+name, f.typ, e)
		}
	}
}

func (p pageFields) into(section, path, typ string, v any) {
	for {
		if t, ok := strings.CutPrefix(typ, "[]"); ok {
			typ, path = t, path+"[]"
		} else if t, ok := strings.CutPrefix(typ, "{}"); ok {
			typ, path = t, path+"{}"
			var all []any
			if m, ok := v.(map[string]any); ok {
				for _, e := range m {
					all = append(all, e)
				}
			}
			v = all
		} else {
			break
		}
	}
	if _, ok := p[typ]; ok {
		p.see(typ, "", v)
		return
	}
	p.see(section, path+".", v)
}

// Every field of an answer that the page calls done is in a real answer, but
// for those whose note says when they are.
func TestAnswerFields(t *testing.T) {
	s := newScene(t)
	p := readPage(t)
	net, vol, image := s.name("net"), s.name("vol"), s.name("image")+":1"
	s.ok("network", "create", "--ipv6", "--subnet", "10.251.3.0/24", "--gateway", "10.251.3.1", "--ip-range", "10.251.3.128/25",
		"--aux-address", "a=10.251.3.2", "--subnet", "fd00:251:3::/64", "--label", "a=b", net)
	t.Cleanup(func() { s.docker("network", "rm", net) })
	s.ok("volume", "create", "--label", "a=b", "--opt", "type=tmpfs", "--opt", "device=tmpfs", vol)
	t.Cleanup(func() { s.docker("volume", "rm", "-f", vol) })
	id := s.idle("--network", net, "--ip", "10.251.3.200", "--network-alias", "other", "-v", vol+":/vol", "-v", "/tmp:/host:ro", "-p", "127.0.0.1::80",
		"-m", "64m", "--pids-limit", "100", "--health-cmd", "true", "--health-interval", "100ms", "--annotation", "a=b", "--label", "a=b")
	s.until(id, "{{.State.Health.Status}}", "healthy")
	s.ok("exec", id, "touch", "/tmp/changed")
	s.ok("commit", "-m", "comment", "-a", "author", "--change", "EXPOSE 80", "--change", "VOLUME /data", "--change", "LABEL a=b", "--change", "WORKDIR /tmp",
		"--change", `ENTRYPOINT ["sh"]`, "--change", "STOPSIGNAL TERM", "--change", "ONBUILD RUN true", "--change", "HEALTHCHECK --interval=5s --timeout=4s --start-period=3s --start-interval=2s --retries=7 CMD true", "--change", "USER 0", id, image)
	t.Cleanup(func() { s.docker("rmi", image) })
	exec := s.field("POST", "/containers/"+id+"/exec", `{"Cmd":["true"]}`, "Id")
	digest := s.ok("image", "inspect", "-f", "{{.Id}}", image)

	for _, q := range []struct{ section, path string }{
		{"SystemInfo", "/info"}, {"SystemVersion", "/version"}, {"GET /system/df, answer", "/system/df?verbose=1"},
		{"ContainerSummary", "/containers/json?size=1"}, {"ContainerInspectResponse", "/containers/" + id + "/json?size=1"},
		{"ContainerStatsResponse", "/containers/" + id + "/stats?stream=0"}, {"ContainerTopResponse", "/containers/" + id + "/top"},
		{"FilesystemChange", "/containers/" + id + "/changes"}, {"GET /exec/{}/json, answer", "/exec/" + exec + "/json"},
		{"ImageSummary", "/images/json?shared-size=1&manifests=1&identity=1"}, {"ImageInspect", "/images/" + image + "/json"},
		{"ImageInspect", "/images/busybox/json?manifests=1"}, {"ImageHistoryResponseItem", "/images/" + digest + "/history"},
		{"NetworkSummary", "/networks"}, {"NetworkInspect", "/networks/" + net}, {"VolumeListResponse", "/volumes"}, {"Volume", "/volumes/" + vol},
		{"EventMessage", "/events?since=1&until=" + itoa(time.Now().Unix())},
	} {
		p.see(q.section, "", s.get(q.path))
	}
	df, _ := s.get("/v1.51/system/df").(map[string]any)
	p.see("Volume", "", df["Volumes"])
	p.report(t)
}

// report names the fields that no answer had: of the sections that answers
// came by.
func (p pageFields) report(t *testing.T) {
	t.Helper()
	for _, section := range slices.Sorted(maps.Keys(p)) {
		some := false
		for _, f := range p[section] {
			some = some || f.seen
		}
		for _, name := range slices.Sorted(maps.Keys(p[section])) {
			f := p[section][name]
			switch {
			case !some:
			case f.state == "yes" && !f.seen && !strings.Contains(f.note, "when "):
				t.Errorf("%s of %s is called done, but no answer has it", name, section)
			case f.state == "no" && f.seen:
				t.Errorf("%s of %s is said not to be there, but an answer has it", name, section)
			}
		}
	}
}

// get asks the newest API and decodes the answer, or its first JSON value.
func (s *scene) get(path string) any {
	s.Helper()
	resp, err := s.d.http().Get("http://d" + path)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	var v any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != http.StatusOK {
		s.Fatalf("%s: %s, %v: %v", path, resp.Status, err, v)
	}
	return v
}

// field sends body and returns one field of the answer.
func (s *scene) field(method, path, body, name string) string {
	s.Helper()
	req, err := http.NewRequest(method, "http://d"+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.d.http().Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil || v[name] == nil {
		s.Fatalf("%s: %s: %s", path, resp.Status, raw)
	}
	out, _ := v[name].(string)
	return out
}
