package dockerapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestAdaptCreate(t *testing.T) {
	for _, c := range []struct {
		name string
		v    version
		in   string
		want string // part of the request afterwards as JSON
		warn string
		err  string
	}{
		{name: "default network", v: 56, in: `{"Image":"x"}`, want: `"NetworkMode":"bridge"`},
		{name: "default endpoint", v: 56, in: `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"default":{"Aliases":["a"]}}}}`, want: `"EndpointsConfig":{"bridge":{`},
		{name: "several networks", v: 44, in: `{"Image":"x","HostConfig":{"NetworkMode":"a"},"NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`, want: `"b":{`},
		{name: "mac, oldest", v: 43, in: `{"Image":"x","MacAddress":"02:42:ac:11:00:02"}`, want: `"MacAddress":"02:42:ac:11:00:02"`},
		{name: "mac", v: 44, in: `{"Image":"x","MacAddress":"02:42:ac:11:00:02"}`, want: `"MacAddress":"02:42:ac:11:00:02"`, warn: "MacAddress field is deprecated"},
		{name: "mac, new", v: 52, in: `{"Image":"x","MacAddress":"02:42:ac:11:00:02"}`, err: "no longer supported"},
		{name: "mac on host", v: 43, in: `{"Image":"x","MacAddress":"02:42:ac:11:00:02","HostConfig":{"NetworkMode":"host"}}`, err: "conflicting options"},
		{name: "two macs", v: 44, in: `{"Image":"x","MacAddress":"02:42:ac:11:00:02","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:42:ac:11:00:03"}}}}`, err: "must match"},
		{name: "capabilities of 1.40", v: 40, in: `{"Image":"x","HostConfig":{"Capabilities":["CAP_KILL"]}}`, err: "CapAdd"},
		{name: "kernel memory", v: 41, in: `{"Image":"x","HostConfig":{"KernelMemory":5}}`, warn: "KernelMemory"},
	} {
		var req container.CreateRequest
		if err := decodeJSON([]byte(c.in), &req); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var old legacyCreate
		_ = json.Unmarshal([]byte(c.in), &old)
		warnings, err := adaptCreate(c.v, &req, &old)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v", c.name, err)
			continue
		}
		if got := strings.Join(warnings, "\n"); (got == "") != (c.warn == "") || !strings.Contains(got, c.warn) {
			t.Errorf("%s: warnings %q", c.name, got)
		}
		raw, _ := json.Marshal(req)
		if err == nil && !strings.Contains(string(raw), c.want) {
			t.Errorf("%s: %s\nhas no %s", c.name, raw, c.want)
		}
	}
}
