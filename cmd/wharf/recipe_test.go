package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

func recorded(t *testing.T) *container.InspectResponse {
	t.Helper()
	b, err := os.ReadFile("testdata/recipe.json")
	if err != nil {
		t.Fatal(err)
	}
	c := &container.InspectResponse{}
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	busybox  = &container.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}}
	machine0 = &system.Info{Architecture: "x86_64", DefaultRuntime: "wharf", LoggingDriver: "json-file", CgroupVersion: "1"}
)

func TestRunCommandOfManyOptions(t *testing.T) {
	r := newRecipe(recorded(t), busybox, machine0)
	golden(t, "recipe.sh", r.commandLine("docker")+"\n")
	text := r.compose()
	golden(t, "recipe.yaml", text)
	if len(r.notes) > 0 {
		t.Errorf("notes: %q", r.notes)
	}
	p := project(t, text)
	s := p.Services["aa"]
	if want := "Q=it's $HOME \"x\""; s.Environment["Q"] == nil || "Q="+*s.Environment["Q"] != want {
		t.Errorf("environment: %v", s.Environment)
	}
	if want := []string{"-c", `echo "$0" a b`, "x y"}; !slices.Equal(s.Command, want) {
		t.Errorf("command: %q", s.Command)
	}
	if s.Networks["n1"].Ipv4Address != "10.55.0.9" || len(s.Ports) != 4 || s.MemLimit != 64<<20 {
		t.Errorf("service: %+v", s)
	}
}

// project reads a Compose file as Compose does.
func project(t *testing.T, text string) *types.Project {
	t.Helper()
	p, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir: t.TempDir(), ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: []byte(text)}},
	}, func(o *loader.Options) { o.SetProjectName("p", true) })
	if err != nil {
		t.Fatalf("compose does not read it: %v\n%s", err, text)
	}
	return p
}

// TestShellQuote lets a shell read what was written for it.
func TestShellQuote(t *testing.T) {
	words := []string{"", "a b", "it's", `"`, "$HOME", "`x`", "a\nb", "-x", "*", "~", "é", "a=b", "\\", "!", "#c", "a;b"}
	out, err := exec.Command("sh", "-c", "printf '%s\\0' "+shellJoin(words)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, words) {
		t.Errorf("got %q", got)
	}
}

func TestRecipeProcess(t *testing.T) {
	image := container.Config{Entrypoint: []string{"/ep", "x"}, Cmd: []string{"c"}}
	for _, tc := range []struct {
		name       string
		c, image   container.Config
		flag, rest string
	}{
		{"as the image", image, image, "", ""},
		{"other command", container.Config{Entrypoint: image.Entrypoint, Cmd: []string{"d"}}, image, "", "d"},
		{"other entrypoint", container.Config{Entrypoint: []string{"/e"}, Cmd: nil}, image, "--entrypoint /e", ""},
		{"entrypoint of several words", container.Config{Entrypoint: []string{"/e", "1", "2"}, Cmd: []string{"3"}}, image, "--entrypoint /e", "1 2 3"},
		{"none", container.Config{Cmd: []string{"d"}}, image, "--entrypoint ''", "d"},
		{"command taken away", container.Config{Entrypoint: image.Entrypoint}, image, "--entrypoint /ep", "x"},
		{"no entrypoint in the image either", container.Config{Cmd: []string{"d"}}, container.Config{Cmd: []string{"c"}}, "", "d"},
	} {
		r := &recipe{name: "n", image: "i"}
		r.process(&tc.c, &tc.image)
		want := "w run --name n i"
		if tc.flag != "" {
			want = "w run --name n " + tc.flag + " i"
		}
		if tc.rest != "" {
			want += " " + tc.rest
		}
		if got := r.commandLine("w"); got != want {
			t.Errorf("%s: %s, want %s", tc.name, got, want)
		}
	}
}

func TestYAMLText(t *testing.T) {
	for _, s := range []string{"yes", "NO", "1.5", "0x10", "a: b", "- x", "", "null", "~", "a#b", "@x", "{a}", "k: [v]", "tab\there", "new\nline", "a'b\"c", "2001-01-01", "é\u2028", "$X ${Y} $$", "plain", "a/b:c", "12:30:45", " lead", "%p", "!x", "&a", "*a", "|", ">"} {
		text := "services:\n  s:\n    image: i\n    command:\n      - " + yamlText(s) + "\n"
		p := project(t, text)
		if got := p.Services["s"].Command; len(got) != 1 || got[0] != s {
			t.Errorf("%q became %q by way of %s", s, got, yamlText(s))
		}
	}
}

func TestRecipeDefaults(t *testing.T) {
	c := recorded(t)
	c.Config = &container.Config{Hostname: c.ID[:12], Image: "busybox", Cmd: []string{"sh"}, Env: busybox.Env}
	c.HostConfig = &container.HostConfig{
		NetworkMode: "bridge", LogConfig: container.LogConfig{Type: "json-file"}, RestartPolicy: container.RestartPolicy{Name: "no"},
		IpcMode: "private", CgroupnsMode: "host", Runtime: "wharf", ShmSize: 64 << 20, MaskedPaths: []string{"/proc/acpi"},
	}
	c.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": {}}}
	r := newRecipe(c, busybox, machine0)
	if got, want := r.commandLine("wharf"), "wharf run --name aa -d busybox"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	project(t, r.compose())
}
