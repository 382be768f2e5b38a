package dockerapi

import (
	"encoding/json"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// Fields of an image's configuration that older versions always showed.
var (
	always151 = map[string]any{
		"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil,
		"User": "", "Volumes": nil, "WorkingDir": "",
	}
	always149 = map[string]any{
		"AttachStderr": false, "AttachStdin": false, "AttachStdout": false,
		"Domainname": "", "Hostname": "", "Image": "",
		"OpenStdin": false, "StdinOnce": false, "Tty": false,
	}
)

// legacyImageConfig adds to an image's configuration what version v had
// beyond it.
func legacyImageConfig(v version, c *dockerspec.DockerOCIImageConfig) map[string]any {
	out := map[string]any{}
	if raw, err := json.Marshal(c); err == nil {
		_ = json.Unmarshal(raw, &out) // our own JSON
	}
	if out == nil {
		out = map[string]any{}
	}
	fill := func(from map[string]any) {
		for k, val := range from {
			if _, there := out[k]; !there {
				out[k] = val
			}
		}
	}
	fill(always151)
	if v < 50 {
		fill(always149)
	}
	return out
}
