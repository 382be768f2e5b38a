package boot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/u-root/u-root/pkg/cpio"
)

// tinyELF is an ELF of one note segment.
func tinyELF(note uint32) []byte {
	var b bytes.Buffer
	le := binary.LittleEndian
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{uint16(2), uint16(62), uint32(1), uint64(0), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0)} {
		_ = binary.Write(&b, le, v)
	}
	for _, v := range []any{uint32(4), uint32(4), uint64(120), uint64(0), uint64(0), uint64(24), uint64(24), uint64(4)} {
		_ = binary.Write(&b, le, v)
	}
	for _, v := range []any{uint32(4), uint32(8), note, []byte("Xen\x00"), uint64(0x1000000)} {
		_ = binary.Write(&b, le, v)
	}
	return b.Bytes()
}

// bzImage packs an image as kernels do.
func bzImage(t testing.TB, image []byte, how string) []byte {
	t.Helper()
	var p bytes.Buffer
	switch how {
	case "lz4":
		p.Write([]byte{0x02, 0x21, 0x4c, 0x18})
		out := make([]byte, lz4.CompressBlockBound(len(image)))
		n, err := lz4.CompressBlock(image, out, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 { // not compressible: all literals, by hand
			t.Fatal("choose an image that compresses")
		}
		_ = binary.Write(&p, binary.LittleEndian, uint32(n))
		p.Write(out[:n])
	case "zstd":
		w, err := zstd.NewWriter(&p)
		if err == nil {
			_, err = w.Write(image)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	case "gzip":
		w := gzip.NewWriter(&p)
		_, _ = w.Write(image)
		_ = w.Close()
	case "xz":
		p.Write([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 1, 2, 3, 4})
	}
	if how != "gzip" { // whose last word is the size already
		_ = binary.Write(&p, binary.LittleEndian, uint32(len(image)))
	}
	b := make([]byte, 5*sector, 5*sector+p.Len())
	b[atSetupSects] = 4
	b[atBootFlag], b[atBootFlag+1] = 0x55, 0xaa
	copy(b[atHeader:], "HdrS")
	binary.LittleEndian.PutUint16(b[atVersion:], 0x20f)
	binary.LittleEndian.PutUint32(b[atPayloadLength:], uint32(p.Len()))
	return append(b, p.Bytes()...)
}

func TestVmlinux(t *testing.T) {
	image := append(tinyELF(notePVH), make([]byte, 100_000)...)
	for _, how := range []string{"lz4", "zstd", "gzip"} {
		got, err := Vmlinux(bzImage(t, image, how))
		if err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s: %d bytes, %v", how, len(got), err)
		}
	}
	if got, err := Vmlinux(image); err != nil || !bytes.Equal(got, image) {
		t.Errorf("plain: %v", err)
	}
	short := bzImage(t, image, "lz4")
	for name, b := range map[string][]byte{
		"empty": nil, "text": []byte(strings.Repeat("no kernel ", 100)), "xz": bzImage(t, image, "xz"), "cut off": short[:len(short)-10],
		"no PVH": append(tinyELF(1), make([]byte, 1000)...), "no PVH inside": bzImage(t, append(tinyELF(1), make([]byte, 1000)...), "lz4"),
	} {
		if _, err := Vmlinux(b); !errors.Is(err, ErrKernel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	image := append(tinyELF(notePVH), make([]byte, 5000)...)
	for _, how := range []string{"lz4", "zstd", "gzip", "xz"} {
		f.Add(bzImage(f, image, how))
	}
	f.Add(image)
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := Vmlinux(b); err == nil && len(out) > maxVmlinux {
			t.Errorf("%d bytes", len(out))
		}
	})
}

func TestVersionOrder(t *testing.T) {
	for _, c := range [][2]string{{"6.1.0-9-cloud", "6.1.0-10-cloud"}, {"5.10.0", "6.1.0"}, {"6.1.0-9", "6.1.0-9-cloud"}, {"6.1", "6.1.1"}} {
		if !versionLess(c[0], c[1]) || versionLess(c[1], c[0]) {
			t.Errorf("%s is not before %s", c[0], c[1])
		}
	}
}

// machine makes a /boot and a /lib/modules.
func machine(t *testing.T, releases ...string) places {
	t.Helper()
	dir := t.TempDir()
	p := places{own: filepath.Join(dir, "own"), roots: []root{{filepath.Join(dir, "nothing"), nil}, {filepath.Join(dir, "boot"), []string{filepath.Join(dir, "modules")}}}}
	boot, modules := p.roots[1].boot, p.roots[1].modules[0]
	for _, r := range releases {
		r, bare := strings.CutSuffix(r, "!") // without modules
		write(t, filepath.Join(boot, "vmlinuz-"+r), "kernel")
		if bare {
			continue
		}
		m := filepath.Join(modules, r)
		write(t, filepath.Join(m, "modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/fs/overlayfs/overlay.ko\n")
		write(t, filepath.Join(m, "modules.dep"), strings.Join([]string{
			"kernel/virtio/virtio_ring.ko:", "kernel/virtio/virtio.ko: kernel/virtio/virtio_ring.ko",
			"kernel/virtio/virtio_mmio.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko",
			"kernel/char/virtio_console.ko.zst: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko",
			"kernel/char/virtio-rng.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko",
			"kernel/fs/erofs/erofs.ko.gz: kernel/lib/libcrc32c.ko", "kernel/lib/libcrc32c.ko:",
			"kernel/block/virtio_blk.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko",
			"kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko",
			"kernel/net/net_failover.ko: kernel/net/failover.ko", "kernel/net/failover.ko:", "kernel/other.ko:",
		}, "\n")+"\n")
		for _, f := range []string{"virtio/virtio_ring.ko", "virtio/virtio.ko", "virtio/virtio_mmio.ko", "char/virtio-rng.ko", "lib/libcrc32c.ko", "block/virtio_blk.ko",
			"net/virtio_net.ko", "net/net_failover.ko", "net/failover.ko"} {
			write(t, filepath.Join(m, "kernel", f), f)
		}
		var z bytes.Buffer
		w, _ := zstd.NewWriter(&z)
		_, _ = io.WriteString(w, "console")
		_ = w.Close()
		write(t, filepath.Join(m, "kernel/char/virtio_console.ko.zst"), z.String())
		z.Reset()
		g := gzip.NewWriter(&z)
		_, _ = io.WriteString(g, "erofs")
		_ = g.Close()
		write(t, filepath.Join(m, "kernel/fs/erofs/erofs.ko.gz"), z.String())
	}
	return p
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		releases []string
		want     string
	}{
		"cloud first":     {[]string{"6.9.0-1-amd64", "6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"}, "6.1.0-10-cloud-amd64"},
		"without modules": {[]string{"6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64!"}, "6.1.0-9-cloud-amd64"},
		"no cloud":        {[]string{"6.9.0-1-amd64"}, "6.9.0-1-amd64"},
		"any":             {[]string{"6.9.0-custom"}, "6.9.0-custom"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := machine(t, c.releases...).find("", "")
			if err != nil || k.Release != c.want || k.Modules == "" || k.Why == "" {
				t.Errorf("%+v %v", k, err)
			}
		})
	}
	p := machine(t)
	if _, err := p.find("", ""); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("none: %v", err)
	}
	if _, err := p.find("/nowhere", ""); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("configured: %v", err)
	}
	write(t, filepath.Join(p.own, "vmlinux"), "x")
	if k, err := p.find("", ""); err != nil || filepath.Dir(k.Path) != p.own || k.Modules != "" {
		t.Errorf("own: %+v %v", k, err)
	}
	write(t, filepath.Join(p.own, "modules", builtinList), "")
	if k, err := p.find("", ""); err != nil || k.Modules != filepath.Join(p.own, "modules") {
		t.Errorf("own with modules: %+v %v", k, err)
	}
}

// Each module comes after those that it needs, and what is built in not at all.
func TestModuleOrder(t *testing.T) {
	p := machine(t, "6.1.0-1-cloud-amd64")
	tree, err := readModules(filepath.Join(p.roots[1].modules[0], "6.1.0-1-cloud-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := tree.wanted()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, m.name)
	}
	want := []string{"virtio_ring", "virtio", "virtio_mmio", "virtio_console", "virtio_rng", "libcrc32c", "erofs",
		"virtio_blk", "failover", "net_failover", "virtio_net"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	delete(tree.file, "virtio_blk")
	if _, err := tree.wanted(); err == nil {
		t.Error("a kernel without disks will do")
	}
}

func TestInitramfs(t *testing.T) {
	p := machine(t, "6.1.0-1-cloud-amd64")
	tree, err := readModules(filepath.Join(p.roots[1].modules[0], "6.1.0-1-cloud-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	modules, err := tree.wanted()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	write(t, agent, "the agent")
	var a, b bytes.Buffer
	if err := errors.Join(writeInitramfs(&a, agent, modules), writeInitramfs(&b, agent, modules)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same input gave two archives")
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(a.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range records {
		text := ""
		if r.ReaderAt != nil {
			data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		got[r.Name] = text
		if r.Name == "init" && r.Mode&0o111 == 0 {
			t.Error("init cannot be executed")
		}
	}
	for name, text := range map[string]string{"init": "the agent", "lib/modules/virtio_console.ko": "console", "lib/modules/erofs.ko": "erofs", "lib/modules/virtio_blk.ko": "block/virtio_blk.ko"} {
		if got[name] != text {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	if !strings.HasPrefix(got[ModuleList], "virtio_ring\n") || !strings.HasSuffix(got[ModuleList], "\nvirtio_net\n") {
		t.Errorf("list %q", got[ModuleList])
	}
}

// An image is made once, and anew when something that it is made from changes.
func TestImageCache(t *testing.T) {
	dir := t.TempDir()
	agent, kernel := filepath.Join(dir, "agent"), filepath.Join(dir, "vmlinux")
	write(t, agent, "the agent")
	write(t, kernel, string(tinyELF(notePVH)))
	m := New(Options{Dir: filepath.Join(dir, "boot"), Agent: agent, Kernel: kernel})
	one, err := m.Image(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if two, err := m.Image(context.Background()); err != nil || two != one {
		t.Errorf("%+v %v", two, err)
	}
	for _, f := range []string{one.Vmlinux, one.Initrd} {
		if st, err := os.Stat(f); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", f, err)
		}
	}
	for _, text := range []string{"another agent", "a third agent!"} {
		write(t, agent, text)
		three, err := m.Image(context.Background())
		if err != nil || three.Digest == one.Digest {
			t.Errorf("%+v %v", three, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "boot")); len(left) != keptImages {
		t.Errorf("%d images are kept", len(left))
	}
	write(t, kernel, "no kernel")
	if _, err := m.Image(context.Background()); !errors.Is(err, ErrKernel) {
		t.Errorf("%v", err)
	}
}

func TestCommandLine(t *testing.T) {
	got := CommandLine(Line{TSCKHz: 2596130, Extra: "x=y"})
	for _, want := range []string{"console=ttyS0", "panic=-1", "tsc_early_khz=2596130", "pci=off", "quiet", "x=y"} {
		if !strings.Contains(" "+got+" ", " "+want+" ") {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if got := CommandLine(Line{PCI: true, Debug: true}); strings.Contains(got, "pci=off") || strings.Contains(got, "quiet") || strings.Contains(got, "tsc") {
		t.Errorf("%s", got)
	}
}

// A kernel package that is only unpacked has no modules.dep: the same list
// comes of the modules themselves.
func TestScan(t *testing.T) {
	k, err := Find("", "")
	if err != nil || k.Modules == "" {
		t.Skipf("no kernel with modules here: apt-get install linux-image-cloud-amd64 (%v)", err)
	}
	with, err := readModules(k.Modules)
	if err != nil {
		t.Fatal(err)
	}
	without := &moduleTree{dir: k.Modules, file: map[string]string{}, deps: map[string][]string{}, builtin: with.builtin}
	if err := without.scan(); err != nil {
		t.Fatal(err)
	}
	a, err := with.wanted()
	if err != nil {
		t.Fatal(err)
	}
	b, err := without.wanted()
	if err != nil {
		t.Fatal(err)
	}
	place := map[string]int{}
	for i, m := range b {
		place[m.name] = i
	}
	if len(a) != len(b) {
		t.Errorf("%v\n%v", a, b)
	}
	for i, m := range b {
		for _, d := range with.deps[m.name] {
			if at, ok := place[d]; !ok || at > i {
				t.Errorf("%s comes before %s, which it needs", m.name, d)
			}
		}
	}
}

func TestDynamicAgent(t *testing.T) {
	self, err := os.Executable() // static, as the tests are built
	if err != nil {
		t.Fatal(err)
	}
	if err := checkAgent(self); err != nil && os.Getenv("CGO_ENABLED") == "0" {
		t.Error(err)
	}
	const dynamic = "/bin/ls"
	if _, err := os.Stat(dynamic); err != nil {
		t.Skip("no " + dynamic)
	}
	if err := checkAgent(dynamic); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("%v", err)
	}
}
