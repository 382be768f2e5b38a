package dockerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, bytes.TrimSpace(got), "", "  "); err != nil {
		pretty.Reset()
		pretty.Write(got)
	}
	path := filepath.Join("testdata", name)
	if *update {
		_ = os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(path, append(pretty.Bytes(), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), pretty.String()+"\n"); d != "" {
		t.Errorf("%s (-update writes it): %s", name, d)
	}
}

func sampleContainer() *container.InspectResponse {
	ep := &network.EndpointSettings{
		NetworkID: "n1", EndpointID: "e1", Aliases: []string{"web"},
		Gateway: netip.MustParseAddr("172.17.0.1"), IPAddress: netip.MustParseAddr("172.17.0.2"), IPPrefixLen: 16,
		MacAddress: network.HardwareAddr{2, 0x42, 0xac, 0x11, 0, 2},
	}
	return &container.InspectResponse{
		ID: "0123456789abcdef", Name: "/web", Created: "2026-01-02T03:04:05Z", Image: "sha256:1",
		Config:          &container.Config{Hostname: "web", Image: "nginx", Cmd: []string{"run"}},
		HostConfig:      &container.HostConfig{NetworkMode: "bridge"},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": ep, "own": {NetworkID: "n2"}}},
		Storage:         &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: "overlayfs"}}},

		ImageManifestDescriptor: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:2", Size: 3},
	}
}

func TestGoldenInspect(t *testing.T) {
	shown := sampleContainer()
	h := New(Options{Log: quiet(), Containers: &fakeContainers{inspect: func(string) (*container.InspectResponse, error) { return shown, nil }}})
	for _, v := range []int{44, 47, 51, 56} {
		w := get(h, fmt.Sprintf("/v1.%d/containers/web/json", v))
		golden(t, fmt.Sprintf("inspect-1.%d.json", v), w.Body.Bytes())
	}
	if d := cmp.Diff(sampleContainer(), shown, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("the door changed the room's answer: %s", d)
	}
}

type goldenImages struct{ Images }

func (goldenImages) Inspect(context.Context, string, *ocispec.Platform, bool) (*image.InspectResponse, error) {
	return &image.InspectResponse{
		ID: "sha256:1", Os: "linux", Architecture: "amd64", Size: 42,
		Config:     &dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Cmd: []string{"sh"}}},
		Descriptor: &ocispec.Descriptor{Digest: "sha256:1"},
	}, nil
}

func (goldenImages) Parent(context.Context, string) (string, error) { return "sha256:0", nil }

func (goldenImages) List(context.Context, bool, bool, bool, model.Filters) ([]image.Summary, error) {
	return []image.Summary{{ID: "sha256:1", Size: 42, Containers: 2, Descriptor: &ocispec.Descriptor{Digest: "sha256:1"}}}, nil
}

func (goldenImages) DiskUsage(context.Context, bool) (*image.DiskUsage, error) {
	return &image.DiskUsage{TotalCount: 1, TotalSize: 42, Items: []image.Summary{{ID: "sha256:1", Size: 42}}}, nil
}

func TestGoldenImages(t *testing.T) {
	h := New(Options{Log: quiet(), Images: goldenImages{}})
	for _, v := range []int{42, 43, 49, 51, 56} {
		golden(t, fmt.Sprintf("image-1.%d.json", v), get(h, fmt.Sprintf("/v1.%d/images/x/json", v)).Body.Bytes())
		golden(t, fmt.Sprintf("images-1.%d.json", v), get(h, fmt.Sprintf("/v1.%d/images/json", v)).Body.Bytes())
	}
}

func TestGoldenUsage(t *testing.T) {
	h := New(Options{Log: quiet(), Images: goldenImages{}, Containers: &fakeContainers{usage: &container.DiskUsage{TotalCount: 1}}})
	for name, path := range map[string]string{
		"df-1.43": "/v1.43/system/df", "df-1.51": "/v1.51/system/df", "df-1.56": "/v1.56/system/df",
		"df-1.56-verbose": "/v1.56/system/df?verbose=1", "df-1.51-image": "/v1.51/system/df?type=image",
	} {
		golden(t, name+".json", get(h, path).Body.Bytes())
	}
	if w := get(h, "/v1.51/system/df?type=nosuch"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type goldenSystem struct{}

func (goldenSystem) Info(context.Context) (*system.Info, error) {
	return &system.Info{ID: "id", Runtimes: map[string]system.RuntimeWithStatus{"wharf": {Status: map[string]string{"a": "b"}}},
		Containerd: &system.ContainerdInfo{Address: "x"}, FirewallBackend: &system.FirewallInfo{Driver: "nftables"}, RuncCommit: system.Commit{ID: "c"}}, nil
}
func (goldenSystem) Version(context.Context) (*system.VersionResponse, error) {
	return &system.VersionResponse{Version: "0.1", APIVersion: MaxAPIVersion}, nil
}

func TestGoldenInfo(t *testing.T) {
	h := New(Options{Log: quiet(), System: goldenSystem{}})
	for _, v := range []int{43, 48, 49, 56} {
		golden(t, fmt.Sprintf("info-1.%d.json", v), get(h, fmt.Sprintf("/v1.%d/info", v)).Body.Bytes())
	}
	golden(t, "version.json", get(h, "/version").Body.Bytes())
}

type goldenFeed struct{}

func (goldenFeed) Events(_ context.Context, since, until int64, f model.Filters, yield func(events.Message) bool) error {
	if until == 1 {
		return nil
	}
	for _, m := range []events.Message{
		{Type: "container", Action: "start", Actor: events.Actor{ID: "c", Attributes: map[string]string{"image": "i"}}, Time: since, TimeNano: until},
		{Type: "image", Action: "create", Actor: events.Actor{ID: "i"}},
		{Type: "network", Action: "connect", Actor: events.Actor{ID: "n"}},
	} {
		if !yield(m) {
			return nil
		}
	}
	return nil
}

func TestGoldenEvents(t *testing.T) {
	h := New(Options{Log: quiet(), Feed: goldenFeed{}})
	for _, v := range []int{45, 51, 56} {
		w := get(h, fmt.Sprintf("/v1.%d/events?since=1&until=2.5", v))
		golden(t, fmt.Sprintf("events-1.%d.json", v), append([]byte(w.Header().Get("Content-Type")+"\n"), w.Body.Bytes()...))
	}
	if w := get(h, "/events?since=2&until=1"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
