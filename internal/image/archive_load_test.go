package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(b, nil)
}

func TestLoadForms(t *testing.T) {
	img := layered(t)
	plain := img
	plain.gzip = false
	blobs := map[digest.Digest][]byte{}
	oci := ociTar(t, blobs, img.ociBlobs(t, blobs), "docker.io/library/oci:1")
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"docker archive":          {img.dockerTar(t, "a:1", "b:2"), "Loaded image: a:1\nLoaded image: b:2\n"},
		"uncompressed layers":     {plain.dockerTar(t, "plain"), "Loaded image: plain:latest\n"},
		"gzipped":                 {gz(t, plain.dockerTar(t, "z:1")), "Loaded image: z:1\n"},
		"zstd":                    {zst(t, plain.dockerTar(t, "z:2")), "Loaded image: z:2\n"},
		"oci layout":              {oci, "Loaded image: oci:1\n"},
		"legacy docker with link": {legacyTar(t, plain), "Loaded image: old:1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			ts := open(t, t.TempDir())
			if got := ts.load(t, c.archive); got != c.want {
				t.Errorf("said %q, want %q", got, c.want)
			}
			// Once more: everything is there already.
			if got := ts.load(t, c.archive); got != c.want {
				t.Errorf("second load said %q, want %q", got, c.want)
			}
			list, err := ts.List(t.Context(), false, false, false, nil)
			if err != nil || len(list) != 1 {
				t.Fatalf("%d images, %v", len(list), err)
			}
			mi, err := ts.Resolve(t.Context(), list[0].ID, nil)
			must(t, err)
			id := model.NewID()
			must(t, ts.Prepare(t.Context(), id, mi))
			change(t, ts, id, func(root string) {
				if !exists(root, "d/new") || exists(root, "d/old") || exists(root, "gone") {
					t.Error("layers are not applied right")
				}
			})
			must(t, ts.Collect(t.Context()))
			es, _ := os.ReadDir(ts.path("layers", "snapshots"))
			if len(es) != 3 {
				t.Errorf("%d layer directories, want 3", len(es))
			}
		})
	}
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	return b
}

// image.tar.xz was made by xz -9; bigdict.tar.xz asks for a dictionary of
// 128 MiB.
func TestLoadXz(t *testing.T) {
	ts := open(t, t.TempDir())
	if got := ts.load(t, testdata(t, "image.tar.xz")); got != "Loaded image: tiny:1\n" {
		t.Errorf("said %q", got)
	}
}

// legacyTar is what Docker 1.10 to 24 wrote: a directory for each layer, the
// second time as a link.
func legacyTar(t testing.TB, i testImage) []byte {
	cfg, layers := i.blobs(t)
	e := dockerEntry{Config: "cfg.json", RepoTags: []string{"old:1"}}
	fs := []file{{name: "repositories", body: "{}"}}
	for n, l := range layers {
		d := strings.Repeat("abc"[n:n+1], 64)
		real := d + "/layer.tar"
		if n == 1 {
			real = "x/layer.tar"
			fs = append(fs, file{name: d + "/layer.tar", kind: tar.TypeSymlink, link: "../x/layer.tar"})
		}
		fs = append(fs, file{name: d + "/VERSION", body: "1.0"}, file{name: d + "/json", body: "{}"}, file{name: real, body: string(l)})
		e.Layers = append(e.Layers, d+"/layer.tar")
	}
	b, _ := json.Marshal([]dockerEntry{e})
	return tarOf(t, append(fs, file{name: "cfg.json", body: string(cfg)}, file{name: "manifest.json", body: string(b)})...)
}

func TestIndexWithPlatforms(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	arm := testImage{platform: "arm64", layers: [][]byte{tarOf(t, file{name: "arm", body: "x"})}}
	blobs := map[digest.Digest][]byte{}
	amd := layered(t)
	amd.platform = "amd64"
	idx := ociIndex(t, blobs, arm, amd)
	ts.load(t, ociTar(t, blobs, idx, "multi:1"))
	img, err := ts.Resolve(ctx, "multi:1", nil)
	if err != nil || img.ID != idx.Digest || img.Platform.Architecture != hostPlatform(nil).Architecture {
		t.Fatalf("%+v %v", img, err)
	}
	other, err := ts.Resolve(ctx, "multi:1", &ocispec.Platform{OS: "linux", Architecture: "arm64"})
	if err != nil || other.Manifest.Digest == img.Manifest.Digest {
		t.Fatalf("%+v %v", other, err)
	}
	// Not unpacked at load, but when a container wants it.
	id := model.NewID()
	must(t, ts.Prepare(ctx, id, other))
	change(t, ts, id, func(root string) {
		if !exists(root, "arm") {
			t.Error("layers of the other platform are not there")
		}
	})
	_, err = ts.Resolve(ctx, "multi:1", &ocispec.Platform{OS: "linux", Architecture: "s390x"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/s390x)") {
		t.Error(err)
	}
	ins, err := ts.Inspect(ctx, "multi:1", nil, true)
	if err != nil || len(ins.Manifests) != 2 || !ins.Manifests[0].Available {
		t.Errorf("%+v %v", ins, err)
	}
	var b bytes.Buffer
	must(t, ts.Save(ctx, []string{"multi:1"}, nil, &b))
	again := open(t, t.TempDir())
	again.load(t, b.Bytes())
	if img2, err := again.Resolve(ctx, "multi:1", nil); err != nil || img2.ID != img.ID {
		t.Errorf("%v %v", img2.ID, err)
	}
	b.Reset()
	must(t, ts.Save(ctx, []string{"multi:1"}, []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}, &b))
	if names := tarNames(t, b.Bytes()); len(names) != 3+3+2 {
		t.Errorf("archive of one platform: %v", names)
	}
}

func tarNames(t testing.TB, b []byte) []string {
	var names []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		must(t, err)
		names = append(names, h.Name)
	}
}

func TestSaveSeveral(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ts.load(t, layered(t).dockerTar(t, "a:1", "a:2"))
	ts.load(t, testImage{layers: [][]byte{tarOf(t, file{name: "f", body: "x"})}}.dockerTar(t, "b:1"))
	var b bytes.Buffer
	must(t, ts.Save(ctx, []string{"a", "b:1"}, nil, &b))
	again := open(t, t.TempDir())
	if got, want := again.load(t, b.Bytes()), "Loaded image: a:1\nLoaded image: a:2\nLoaded image: b:1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := ts.Save(ctx, []string{"a:1", "nope"}, nil, io.Discard); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is missing: apt-get install skopeo")
	}
	skopeo := func(args ...string) {
		t.Helper()
		out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %v: %v\n%s", args, err, out)
		}
	}
	ts := open(t, t.TempDir())
	ctx := t.Context()
	d := t.TempDir()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	saved := filepath.Join(d, "saved.tar")
	f, err := os.Create(saved)
	must(t, err)
	must(t, ts.Save(ctx, []string{"busybox:test"}, nil, f))
	must(t, f.Close())
	// skopeo reads both forms that are in the one archive ...
	skopeo("copy", "docker-archive:"+saved, "docker-archive:"+d+"/docker.tar:back/docker:1")
	blobs := map[digest.Digest][]byte{}
	ts.load(t, ociTar(t, blobs, layered(t).ociBlobs(t, blobs), "oci:test"))
	f, err = os.Create(d + "/saved-oci.tar")
	must(t, err)
	must(t, ts.Save(ctx, []string{"oci:test"}, nil, f))
	must(t, f.Close())
	skopeo("copy", "oci-archive:"+d+"/saved-oci.tar:test", "oci-archive:"+d+"/oci.tar:back/oci:1")
	skopeo("copy", "docker-archive:"+d+"/saved-oci.tar", "oci-archive:"+d+"/second.tar")
	skopeo("copy", "docker-archive:"+saved, "oci-archive:"+d+"/bare.tar")
	// ... and we read what it writes.
	for name, want := range map[string]string{"docker.tar": "Loaded image: back/docker:1\n", "oci.tar": "Loaded image: back/oci:1\n", "bare.tar": "Loaded image ID: sha256:"} {
		b, err := os.ReadFile(filepath.Join(d, name))
		must(t, err)
		if got := ts.load(t, b); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	img := layered(t)
	blobs := map[digest.Digest][]byte{}
	desc := img.ociBlobs(t, blobs)
	lying := map[digest.Digest][]byte{}
	for d, b := range blobs {
		lying[d] = b
	}
	for d, b := range lying {
		if len(b) > 100_000 {
			lying[d] = append([]byte{}, b[:len(b)-1]...)
		}
	}
	wrongDiff := testImage{layers: [][]byte{tarOf(t, file{name: "a", body: "x"})}}
	wrongDiff.config.RootFS.DiffIDs = []digest.Digest{digest.FromString("lie")}
	huge := tarOf(t, file{name: "manifest.json", body: strings.Repeat(" ", maxArchiveJSON+1)})
	var sparse bytes.Buffer
	w := tar.NewWriter(&sparse)
	must(t, w.WriteHeader(&tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg, Size: 1 << 40}))
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"climbing name":   {tarOf(t, file{name: "../../etc/passwd", body: "x"}), "points outside"},
		"absolute name":   {tarOf(t, file{name: "/etc/passwd", body: "x"}), "points outside"},
		"climbing link":   {tarOf(t, file{name: "a", kind: tar.TypeSymlink, link: "../../x"}), "points outside"},
		"lying digest":    {ociTar(t, lying, desc, "x:1"), "its digest is"},
		"bad digest name": {tarOf(t, file{name: "blobs/sha256/xyz", body: "x"}), "invalid checksum digest"},
		"wrong diff id":   {swapDiff(t, img), "configuration says"},
		"huge manifest":   {huge, "more than the"},
		"huge size":       {sparse.Bytes(), "more than the"},
		"no manifest":     {tarOf(t, file{name: "etc/passwd", body: "x"}), "not an image archive"},
		"not a tar":       {[]byte(strings.Repeat("hello ", 1000)), "not a whole tar"},
		"empty":           {nil, "not a whole tar"},
		"truncated":       {img.dockerTar(t, "a:1")[:200_000], "not a whole tar"},
		"layer missing":   {tarOf(t, file{name: "manifest.json", body: `[{"Config":"c","Layers":["l"]}]`}), "named but not in the archive"},
		"link loop":       {tarOf(t, file{name: "a", kind: tar.TypeSymlink, link: "b"}, file{name: "b", kind: tar.TypeSymlink, link: "a"}, file{name: "manifest.json", body: `[{"Config":"a"}]`}), "named but not in the archive"},
		"bad tag":         {img.dockerTar(t, "NOT A TAG"), "invalid reference"},
		"xz":              {append(append([]byte{}, magicXz...), make([]byte, 100)...), "xz: "},
		"xz cut":          {testdata(t, "image.tar.xz")[:600], "xz: "},
		"xz dictionary":   {testdata(t, "bigdict.tar.xz"), "more than 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			ts := open(t, root)
			err := ts.Load(t.Context(), bytes.NewReader(c.archive), nil, false, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			must(t, ts.Collect(t.Context()))
			if n := countEntries(t, root, "layers/snapshots"); n != 0 {
				t.Errorf("%d layer directories left", n)
			}
			if list, err := ts.List(t.Context(), true, false, false, nil); err != nil || len(list) != 0 {
				t.Errorf("%d images, %v", len(list), err)
			}
		})
	}
}

// swapDiff is an archive whose configuration lies about a layer.
func swapDiff(t testing.TB, i testImage) []byte {
	cfg, layers := i.blobs(t)
	cfg = bytes.Replace(cfg, []byte(digest.FromBytes(i.layers[1]).Encoded()), []byte(digest.FromString("lie").Encoded()), 1)
	e := dockerEntry{Config: "c.json", RepoTags: []string{"x:1"}}
	fs := []file{{name: "c.json", body: string(cfg)}}
	for n, l := range layers {
		name := string(rune('a'+n)) + ".tar"
		e.Layers = append(e.Layers, name)
		fs = append(fs, file{name: name, body: string(l)})
	}
	b, _ := json.Marshal([]dockerEntry{e})
	return tarOf(t, append(fs, file{name: "manifest.json", body: string(b)})...)
}

// TestSparseLayer: the zeros of a sparse file are not in the archive, so that a
// layer of a kilobyte could fill the disk. A small one has its holes.
func TestSparseLayer(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("needs GNU tar, to write sparse files")
	}
	for _, format := range []string{"gnu", "pax"} {
		for size, want := range map[int64]string{64 << 20: "", 2 << 40: "sparse files"} {
			src := t.TempDir()
			must(t, os.WriteFile(src+"/f", []byte("x"), 0o644))
			must(t, os.Truncate(src+"/f", size))
			layer, err := exec.Command("tar", "-C", src, "-S", "--format="+format, "-cf", "-", "f").Output()
			must(t, err)
			ts := open(t, t.TempDir())
			err = ts.Load(t.Context(), bytes.NewReader(testImage{layers: [][]byte{layer}}.dockerTar(t, "x:1")), nil, false, nil)
			if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "" && err != nil {
				t.Errorf("%s, %d: %v", format, size, err)
				continue
			}
			if want != "" {
				continue
			}
			mi, err := ts.Resolve(t.Context(), "x:1", nil)
			must(t, err)
			id := model.NewID()
			must(t, ts.Prepare(t.Context(), id, mi))
			change(t, ts, id, func(root string) {
				var st unix.Stat_t
				must(t, unix.Stat(root+"/f", &st))
				if b, _ := os.ReadFile(root + "/f"); st.Size != size || st.Blocks > 1024 || len(b) == 0 || b[0] != 'x' {
					t.Errorf("%s: %d bytes in %d blocks", format, st.Size, st.Blocks)
				}
			})
		}
	}
}

func TestWhiteoutOrder(t *testing.T) {
	ts := open(t, t.TempDir())
	img := testImage{layers: [][]byte{
		tarOf(t, dir("d/", 0o755), file{name: "d/old", body: "x"}, dir("e/", 0o755), file{name: "e/old", body: "x"}, file{name: "f", body: "old"}),
		tarOf(t, file{name: ".wh.d"}, dir("d/", 0o755), file{name: "d/new", body: "n"},
			dir("e/", 0o755), file{name: "e/new", body: "n"}, file{name: ".wh.e"},
			file{name: "f", body: "new"}, file{name: ".wh.f"}),
	}}
	ts.load(t, img.dockerTar(t, "w:1"))
	mi, err := ts.Resolve(t.Context(), "w:1", nil)
	must(t, err)
	id := model.NewID()
	must(t, ts.Prepare(t.Context(), id, mi))
	change(t, ts, id, func(root string) {
		for name, there := range map[string]bool{"d/new": true, "d/old": false, "e/new": true, "e/old": false, "f": true} {
			if exists(root, name) != there {
				t.Errorf("%s there = %v", name, !there)
			}
		}
	})
}

func TestImport(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	var m messages
	must(t, ts.Import(ctx, bytes.NewReader(busyboxLayer(t)), "imported", "v1", "", nil, nil, m.add))
	img, err := ts.Resolve(ctx, "imported:v1", nil)
	if err != nil || !strings.Contains(m.text(), img.ID.String()) {
		t.Fatalf("%v %q", err, m.text())
	}
	id := model.NewID()
	must(t, ts.Prepare(ctx, id, img))
	// A compressed tar is kept as it came.
	packed := gz(t, busyboxLayer(t))
	must(t, ts.Import(ctx, bytes.NewReader(packed), "imported", "gz", "", nil, nil, nil))
	if _, err := ts.cs.Info(ts.ctx(ctx), digest.FromBytes(packed)); err != nil {
		t.Errorf("the layer was written anew: %v", err)
	}
	if again, err := ts.Resolve(ctx, "imported:gz", nil); err != nil || again.ChainID != img.ChainID {
		t.Errorf("%v %v", again.ChainID, err)
	}
	if err := ts.Import(ctx, strings.NewReader(strings.Repeat("x", 2000)), "", "", "", nil, nil, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("rubbish: %v", err)
	}
	if err := ts.Import(ctx, bytes.NewReader(busyboxLayer(t)), "", "", "", []string{"CMD x"}, nil, nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("changes without a hand for them: %v", err)
	}
}

// Docker imports an archive without entries, and even nothing at all, as an
// empty image; a platform may name the system only.
func TestImportNothing(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	for i, c := range []struct {
		body []byte
		p    *ocispec.Platform
		want string
	}{
		{make([]byte, 1024), nil, "linux/" + runtime.GOARCH},
		{nil, &ocispec.Platform{OS: "linux"}, "linux/" + runtime.GOARCH},
		{nil, &ocispec.Platform{OS: "linux", Architecture: "sparc64"}, "linux/sparc64"},
	} {
		ref := fmt.Sprintf("nothing:%d", i)
		must(t, ts.Import(ctx, bytes.NewReader(c.body), "nothing", fmt.Sprint(i), "", nil, c.p, nil))
		got, err := ts.Inspect(ctx, ref, nil, false)
		if err != nil || got.Os+"/"+got.Architecture != c.want {
			t.Errorf("%s: %+v, %v; want %s", ref, got, err, c.want)
		}
	}
}

func TestDownload(t *testing.T) {
	ts := open(t, t.TempDir())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root.tar" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "a tar")
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, u := range []string{srv.URL + "/root.tar", host + "/root.tar"} {
		body, err := ts.Download(t.Context(), u)
		if err != nil {
			t.Fatalf("%s: %v", u, err)
		}
		if b, err := io.ReadAll(body); string(b) != "a tar" || err != nil {
			t.Errorf("%s: %q, %v", u, b, err)
		}
		_ = body.Close()
	}
	for u, is := range map[string]func(error) bool{
		host + "/none": errdefs.IsNotFound, host + "/%2Fdata": errdefs.IsNotFound,
		"%2Fdata%2Ffile.tar": errdefs.IsInvalidArgument, "ftp://x/y": errdefs.IsInvalidArgument, "127.0.0.1:1/x": errdefs.IsUnavailable,
	} {
		if _, err := ts.Download(t.Context(), u); !is(err) {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:00"},"layers":[{}]}`), ocispec.MediaTypeImageManifest)
	f.Add([]byte(`{"manifests":[{"digest":"x"}]}`), ocispec.MediaTypeImageIndex)
	f.Fuzz(func(t *testing.T, b []byte, mt string) {
		d, err := parseDocument(b, ocispec.Descriptor{MediaType: mt})
		if err != nil {
			return
		}
		if c, err := parseConfig(b, d); err == nil {
			containerConfig(c)
		}
	})
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte(`[{"Config":"c","RepoTags":["a"],"Layers":["l"]}]`), []byte(`{"manifests":[]}`))
	f.Fuzz(func(t *testing.T, manifest, index []byte) {
		l := &loader{blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, docs: map[string][]byte{"manifest.json": manifest}}
		_, _ = l.entries()
		l.docs = map[string][]byte{"index.json": index, "oci-layout": {}}
		_, _ = l.entries()
	})
}

// One name stands for several platforms also in an archive of some of them.
func TestSaveSomePlatforms(t *testing.T) {
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	blobs := map[digest.Digest][]byte{}
	var imgs []testImage
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		i := layered(t)
		i.platform = arch
		imgs = append(imgs, i)
	}
	from.load(t, ociTar(t, blobs, ociIndex(t, blobs, imgs...), "docker.io/library/many:1"))
	var b bytes.Buffer
	ps := []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "s390x"}}
	must(t, from.Save(t.Context(), []string{"many:1"}, ps, &b))
	to.load(t, b.Bytes())
	for arch, there := range map[string]bool{"amd64": true, "s390x": true, "arm64": false} {
		got, err := to.Inspect(t.Context(), "many:1", &ocispec.Platform{OS: "linux", Architecture: arch}, false)
		if there && (err != nil || got.Architecture != arch || got.Descriptor.Platform == nil) || !there && !errdefs.IsNotFound(err) {
			t.Errorf("%s: %+v, %v", arch, got, err)
		}
	}
}
