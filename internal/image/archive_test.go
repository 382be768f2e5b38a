package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is one entry of a tar made in a test.
type file struct {
	name, body, link string
	kind             byte
	mode             int64
	uid, gid         int
	pax              map[string]string
}

func dir(name string, mode int64) file { return file{name: name, kind: tar.TypeDir, mode: mode} }

// tarOf makes a tar.
func tarOf(t testing.TB, fs ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range fs {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: f.mode, Uid: f.uid, Gid: f.gid, Size: int64(len(f.body)), PAXRecords: f.pax, ModTime: time.Unix(1700000000, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// busyboxLayer holds Debian's static busybox.
func busyboxLayer(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("/bin/busybox is missing: apt-get install busybox-static")
	}
	return tarOf(t, dir("bin/", 0o755), file{name: "bin/busybox", body: string(b), mode: 0o755},
		file{name: "bin/sh", kind: tar.TypeSymlink, link: "busybox", mode: 0o777},
		dir("etc/", 0o750), file{name: "etc/passwd", body: "root:x:0:0::/:/bin/sh\n"}, dir("tmp/", 0o1777))
}

// testImage is an image made in a test; Layers are uncompressed tars.
type testImage struct {
	layers   [][]byte
	gzip     bool
	config   ocispec.Image
	platform string
}

func (i testImage) blobs(t testing.TB) (cfg []byte, layers [][]byte) {
	t.Helper()
	c := i.config
	if c.OS == "" {
		c.OS = "linux"
	}
	if c.Architecture == "" {
		c.Architecture = "amd64"
	}
	if i.platform != "" {
		c.Architecture = i.platform
	}
	if c.Created == nil {
		at := time.Unix(1700000000, 0).UTC()
		c.Created = &at
	}
	c.RootFS.Type = "layers"
	for _, l := range i.layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		c.History = append(c.History, ocispec.History{CreatedBy: "layer", Created: c.Created})
		if i.gzip {
			l = gz(t, l)
		}
		layers = append(layers, l)
	}
	c.History = append(c.History, ocispec.History{CreatedBy: "CMD", Created: c.Created, EmptyLayer: true})
	cfg, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, layers
}

// dockerTar is the docker-archive form.
func (i testImage) dockerTar(t testing.TB, tags ...string) []byte {
	cfg, layers := i.blobs(t)
	e := dockerEntry{Config: digest.FromBytes(cfg).Encoded() + ".json", RepoTags: tags}
	fs := []file{{name: e.Config, body: string(cfg)}}
	for _, l := range layers {
		name := digest.FromBytes(l).Encoded() + "/layer.tar"
		e.Layers = append(e.Layers, name)
		fs = append(fs, file{name: name, body: string(l)})
	}
	b, _ := json.Marshal([]dockerEntry{e})
	return tarOf(t, append(fs, file{name: "manifest.json", body: string(b)})...)
}

// ociBlobs adds an image's blobs to fs and returns its manifest's descriptor.
func (i testImage) ociBlobs(t testing.TB, blobs map[digest.Digest][]byte) ocispec.Descriptor {
	cfg, layers := i.blobs(t)
	put := func(mt string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mt, Digest: digest.FromBytes(b), Size: int64(len(b))}
		blobs[d.Digest] = b
		return d
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.MediaTypeImageConfig, cfg)}
	m.SchemaVersion = 2
	mt := ocispec.MediaTypeImageLayer
	if i.gzip {
		mt = ocispec.MediaTypeImageLayerGzip
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, put(mt, l))
	}
	b, _ := json.Marshal(m)
	d := put(ocispec.MediaTypeImageManifest, b)
	arch := i.platform
	if arch == "" {
		arch = "amd64"
	}
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return d
}

// ociIndex makes an index of images.
func ociIndex(t testing.TB, blobs map[digest.Digest][]byte, imgs ...testImage) ocispec.Descriptor {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	for _, i := range imgs {
		idx.Manifests = append(idx.Manifests, i.ociBlobs(t, blobs))
	}
	b, _ := json.Marshal(idx)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}
	blobs[d.Digest] = b
	return d
}

// ociTar is an OCI layout with one image called name.
func ociTar(t testing.TB, blobs map[digest.Digest][]byte, d ocispec.Descriptor, name string) []byte {
	fs := []file{{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}}
	for dg, b := range blobs {
		fs = append(fs, file{name: "blobs/sha256/" + dg.Encoded(), body: string(b)})
	}
	if name != "" {
		d.Annotations = map[string]string{images.AnnotationImageName: name}
	}
	idx := ocispec.Index{Manifests: []ocispec.Descriptor{d}}
	idx.SchemaVersion = 2
	b, _ := json.Marshal(idx)
	return tarOf(t, append(fs, file{name: "index.json", body: string(b)})...)
}

// event is one that the store published.
type event struct {
	action events.Action
	name   string
}

// testStore is an open store with a hand on its surroundings.
type testStore struct {
	*Store
	users  []User
	events []event
}

func open(t testing.TB, root string, change ...func(*Options)) *testStore {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: overlay whiteouts are devices")
	}
	ts := &testStore{}
	o := Options{
		Root:  root,
		Users: func(context.Context) ([]User, error) { return ts.users, nil },
		Publish: func(_ events.Type, a events.Action, id string, attrs map[string]string) {
			ts.events = append(ts.events, event{a, attrs["name"]})
		},
	}
	for _, c := range change {
		c(&o)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ts.Store = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !strings.Contains(err.Error(), "not open") {
			t.Error(err)
		}
	})
	return ts
}

// messages collects progress.
type messages []jsonstream.Message

func (m *messages) add(v any) { *m = append(*m, v.(jsonstream.Message)) }

func (m messages) text() string {
	var b strings.Builder
	for _, x := range m {
		b.WriteString(x.Stream)
		if x.Status != "" {
			b.WriteString(strings.TrimPrefix(x.ID+": "+x.Status+"\n", ": "))
		}
	}
	return b.String()
}

func (ts *testStore) load(t testing.TB, archive []byte) string {
	t.Helper()
	var m messages
	if err := ts.Load(t.Context(), bytes.NewReader(archive), nil, false, m.add); err != nil {
		t.Fatal(err)
	}
	return m.text()
}

func exists(p ...string) bool {
	_, err := os.Lstat(filepath.Join(p...))
	return err == nil
}
