package dockerapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func TestFilters(t *testing.T) {
	want := model.Filters{"label": {"a=b": true, "c": true}}
	for _, text := range []string{
		`{"label":{"a=b":true,"c":true}}`,
		`{"label":["a=b","c"]}`,
		`{"label":{"a=b":true,"c":true,"no":false}}`,
	} {
		got, err := parseFilters(text)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "{}", "null", `{"label":{}}`, `{"label":[]}`, `{"label":null}`} {
		if got, err := parseFilters(text); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "[]", `{"label":"a"}`, `{"label":{"a":"b"}}`, `{"label":[1]}`, `{"label":`} {
		if _, err := parseFilters(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func FuzzFilters(f *testing.F) {
	f.Add(`{"label":{"a=b":true}}`)
	f.Add(`{"label":["a"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseFilters(text)
		if err != nil {
			return
		}
		raw, _ := json.Marshal(got)
		again, err := parseFilters(string(raw))
		if err != nil || !cmp.Equal(got, again) {
			t.Errorf("%q: %v, then %v, %v", text, got, again, err)
		}
	})
}

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		"": "\x10\x11", "a": "a", "ctrl-a": "\x01", "ctrl-z,x": "\x1ax", "ctrl-@": "\x00",
		"ctrl-[,ctrl-\\": "\x1b\x1c", "ctrl-_": "\x1f", "-": "-",
	} {
		got, err := parseDetach(text)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-A", "ctrl-1", "ab", ",", "a,", "ctrl-aa"} {
		if _, err := parseDetach(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestDetacher(t *testing.T) {
	for _, c := range []struct {
		keys     string
		in       []string
		out      string
		detached bool
	}{
		{"pq", []string{"abc"}, "abc", false},
		{"pq", []string{"apqb"}, "a", true},
		{"pq", []string{"ap", "qb"}, "a", true},
		{"pq", []string{"ap", "xp"}, "apx", false}, // the last p is held back
		{"pq", []string{"ppq"}, "p", true},
		{"aab", []string{"aaab"}, "a", true},
		{"aab", []string{"a", "a", "a", "b"}, "a", true},
		{"abac", []string{"ababac"}, "ab", true},
		{"", []string{"pq"}, "pq", false},
	} {
		d := detacher{keys: []byte(c.keys)}
		var out []byte
		var err error
		for _, p := range c.in {
			var o []byte
			o, err = d.feed([]byte(p))
			out = append(out, o...)
			if err != nil {
				break
			}
		}
		if string(out) != c.out || errors.Is(err, errDetached) != c.detached {
			t.Errorf("%q in %q: %q, %v", c.keys, c.in, out, err)
		}
	}
}

// Whatever the pieces, what goes to the process is the input up to the first
// complete sequence.
func FuzzDetacher(f *testing.F) {
	f.Add([]byte("pq"), []byte("apxpqb"), 2)
	f.Add([]byte("aab"), []byte("aaaab"), 1)
	f.Fuzz(func(t *testing.T, keys, in []byte, size int) {
		if len(keys) == 0 || size <= 0 {
			return
		}
		d := detacher{keys: keys}
		var out []byte
		detached := false
		for rest := in; len(rest) > 0 && !detached; {
			n := min(size, len(rest))
			o, err := d.feed(rest[:n])
			out, rest, detached = append(out, o...), rest[n:], err != nil
		}
		at := bytes.Index(in, keys)
		if detached != (at >= 0) {
			t.Fatalf("keys %q in %q: detached %v", keys, in, detached)
		}
		want := in
		if detached {
			want = in[:at]
		} else {
			want = in[:len(in)-d.seen]
		}
		if !bytes.Equal(out, want) {
			t.Errorf("keys %q in %q: %q, want %q", keys, in, out, want)
		}
	})
}

func FuzzCreate(f *testing.F) {
	f.Add(`{"Image":"x","HostConfig":{"PortBindings":{"80/tcp":[]},"Mounts":[{"Type":"bind","ReadOnly":true}]}}`, 43)
	f.Add(`{"Image":"x","MacAddress":"02:42:ac:11:00:02","NetworkingConfig":{"EndpointsConfig":{"a":null}}}`, 51)
	f.Fuzz(func(t *testing.T, body string, v int) {
		var req container.CreateRequest
		if decodeJSON([]byte(body), &req) != nil {
			return
		}
		var old legacyCreate
		_ = json.Unmarshal([]byte(body), &old)
		_, err := adaptCreate(version(v), &req, &old)
		if err == nil && (req.HostConfig == nil || req.NetworkingConfig == nil || req.HostConfig.NetworkMode == "") {
			t.Errorf("%s: something is nil", body)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add("/v1.40/info")
	f.Add("/v1.")
	f.Fuzz(func(t *testing.T, path string) {
		rest, v, err := splitVersion(path)
		if err == nil && (v < oldest || v > newest) {
			t.Errorf("%q: version %d, rest %q", path, v, rest)
		}
	})
}

func TestPullRef(t *testing.T) {
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, c := range []struct{ name, tag, want, err string }{
		{"busybox", "latest", "busybox:latest", ""},
		{"busybox:1", "", "busybox:1", ""},
		{"busybox:1", "2", "busybox:2", ""},
		{"localhost:5000/a/b", "x", "localhost:5000/a/b:x", ""},
		{"busybox", d, "busybox@" + d, ""},
		{"busybox@" + d, "", "busybox@" + d, ""},
		{"docker.io/library/busybox", "1", "busybox:1", ""},
		{"busybox", "", "busybox", ""},
		{"busybox:", "", "busybox", ""},
		{"scratch", "latest", "", "reserved"},
		{"BusyBox", "latest", "", "lowercase"},
		{"busybox", "not a tag", "", "tag"},
	} {
		got, err := pullRef(c.name, c.tag)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s, %s: %q, %v", c.name, c.tag, got, err)
		}
	}
}
