package boot

import (
	"bufio"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// generation changes when the same inputs give another initramfs or image.
const generation = 6

// keptImages is how many digests stay on disk: the present one, and the one
// before it for a machine that is just being started from it.
const keptImages = 2

// Options say where things are.
type Options struct {
	Dir     string // own directory, made
	Agent   string // path of wharf-guest
	Kernel  string // configured kernel; "" looks for one
	Modules string // its modules, when not in /lib/modules/<release>
}

// Image is what a machine boots.
type Image struct {
	Vmlinux string
	Initrd  string
	// Template is the initramfs of a template and its clones: its kernel knows
	// of slots that are empty yet.
	Template string
	Digest   string // of everything that they are made from
	Kernel   Kernel
}

// Maker makes images. Its methods may be called at the same time.
type Maker struct {
	o  Options
	mu sync.Mutex // one image is made at a time
}

// New returns a maker. Nothing is looked at before Image.
func New(o Options) *Maker { return &Maker{o: o} }

// Kernel says which kernel will be used, and why.
func (m *Maker) Kernel() (Kernel, error) { return Find(m.o.Kernel, m.o.Modules) }

// Image returns the image of the kernel and agent as they are now. It costs
// some stat(2) calls when it was made before, a second when not.
func (m *Maker) Image(ctx context.Context) (Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.Kernel()
	if err != nil {
		return Image{}, err
	}
	modules, err := modulesOf(k)
	if err != nil {
		return Image{}, err
	}
	digest, err := m.digest(k, modules)
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(m.o.Dir, digest)
	img := Image{Vmlinux: filepath.Join(dir, "vmlinux"), Initrd: filepath.Join(dir, "initrd"), Template: filepath.Join(dir, "initrd.template"), Digest: digest, Kernel: k}
	if _, err := os.Stat(dir); err == nil {
		return img, nil
	}
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	if err := m.make(k, modules, dir); err != nil {
		return Image{}, fmt.Errorf("kernel %s: %w", k.Path, err)
	}
	m.prune(digest)
	return img, nil
}

func modulesOf(k Kernel) ([]module, error) {
	if k.Modules == "" {
		return nil, nil
	}
	t, err := readModules(k.Modules)
	if err != nil {
		return nil, err
	}
	return t.wanted()
}

// digest is over what the inputs look like from outside: reading them all
// would take longer than a clone of a template.
func (m *Maker) digest(k Kernel, modules []module) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, generation, k.Release)
	files := []string{k.Path, m.o.Agent}
	for _, mod := range modules {
		files = append(files, mod.file)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d %d\n", f, st.Size(), st.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func (m *Maker) make(k Kernel, modules []module, dir string) error {
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(m.o.Dir, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file, err := os.ReadFile(k.Path)
	if err != nil {
		return err
	}
	image, err := Vmlinux(file)
	if err != nil {
		return err
	}
	if err := checkAgent(m.o.Agent); err != nil {
		return err
	}
	err = writeFile(filepath.Join(tmp, "vmlinux"), func(w io.Writer) error {
		_, err := w.Write(image)
		return err
	})
	if err != nil {
		return err
	}
	for name, first := range map[string]func(io.Writer) error{"initrd": nothing, "initrd.template": writeTables} {
		err = writeFile(filepath.Join(tmp, name), func(w io.Writer) error {
			return errors.Join(first(w), writeInitramfs(w, m.o.Agent, modules))
		})
		if err != nil {
			return err
		}
	}
	return os.Rename(tmp, dir)
}

func nothing(io.Writer) error { return nil }

// writeFile writes a file and syncs it: a power cut must not leave half a
// kernel under a digest.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

// prune removes old images, and what a crash left half made.
func (m *Maker) prune(keep string) {
	entries, err := os.ReadDir(m.o.Dir)
	if err != nil {
		return
	}
	type old struct {
		path string
		at   time.Time
	}
	var all []old
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || e.Name() == keep || !e.IsDir() {
			continue
		}
		all = append(all, old{filepath.Join(m.o.Dir, e.Name()), info.ModTime()})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].at.After(all[j].at) })
	for i, o := range all {
		if i >= keptImages-1 {
			_ = os.RemoveAll(o.path)
		}
	}
}

// checkAgent refuses an agent that wants a dynamic linker, of which an initramfs
// has none: the kernel would say "No working init found".
func checkAgent(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return nil //nolint:nilerr // no program at all is the kernel's to refuse
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("the agent %s is linked dynamically: build wharf-guest with CGO_ENABLED=0", path)
		}
	}
	return nil
}
