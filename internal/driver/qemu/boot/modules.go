package boot

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// drivers are loaded when the agent begins. A template is saved after that.
var drivers = []string{"virtio_mmio", "virtio_pci", "virtio_console", "virtio_rng", "overlay", "erofs", "ext4", "fuse",
	"virtio_blk", "virtio_net", "virtiofs", "virtio_balloon"}

// optional may be missing: the guest does without.
var optional = map[string]bool{"virtio_pci": true, "virtio_rng": true, "virtiofs": true, "fuse": true, "virtio_balloon": true}

// module is one file to put into the initramfs.
type module struct {
	name string // virtio_blk
	file string // on the host
}

// moduleTree is what modules.dep and modules.builtin say.
type moduleTree struct {
	dir     string
	file    map[string]string   // name -> path below dir
	deps    map[string][]string // name -> names, the nearest first
	builtin map[string]bool
}

// moduleName is the name of a module's file: kernel/fs/fuse/virtio-fs.ko.zst
// is virtio_fs.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModules(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, file: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, deps, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		name := moduleName(file)
		t.file[name], t.deps[name] = file, []string{}
		for _, d := range strings.Fields(deps) {
			t.deps[name] = append(t.deps[name], moduleName(d))
		}
	})
	if errors.Is(err, os.ErrNotExist) { // unpacked, and depmod(8) did not run
		err = t.scan()
	}
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, builtinList), func(line string) { t.builtin[moduleName(line)] = true })
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return t, nil
}

func eachLine(file string, f func(string)) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f(strings.TrimSpace(s.Text()))
	}
	return s.Err()
}

// scan finds out from the modules themselves what depmod(8) would write.
func (t *moduleTree) scan() error {
	return filepath.WalkDir(filepath.Join(t.dir, "kernel"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".ko") {
			return err
		}
		rel, err := filepath.Rel(t.dir, p)
		if err != nil {
			return err
		}
		t.file[moduleName(rel)] = rel
		return nil
	})
}

// needs lists all that a module needs, the nearest first.
func (t *moduleTree) needs(name string) ([]string, error) {
	if deps, ok := t.deps[name]; ok || t.file[name] == "" {
		return deps, nil
	}
	m := module{name: name, file: filepath.Join(t.dir, t.file[name])}
	direct, err := m.depends()
	if err != nil {
		return nil, err
	}
	t.deps[name] = nil // a circle ends here
	var all []string
	for _, d := range direct {
		below, err := t.needs(d)
		if err != nil {
			return nil, err
		}
		all = append(append(all, d), below...)
	}
	t.deps[name] = all
	return all, nil
}

// depends is the module's own list: "depends=virtio,virtio_ring" in its
// section .modinfo.
func (m module) depends() ([]string, error) {
	data, err := m.read()
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.file, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("module %s has no .modinfo", m.file)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.file, err)
	}
	for _, kv := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(kv, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// wanted is the list of modules to load, in order: each after those that it
// needs. modules.dep names all that a module needs, the nearest first.
func (t *moduleTree) wanted() ([]module, error) {
	var out []module
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] && t.file[name] != "" {
			seen[name] = true
			out = append(out, module{name: name, file: filepath.Join(t.dir, t.file[name])})
		}
	}
	for _, name := range drivers {
		if t.builtin[name] {
			continue
		}
		if t.file[name] == "" {
			if optional[name] {
				continue
			}
			return nil, fmt.Errorf("the kernel in %s has no %s, which a virtual machine needs", t.dir, name)
		}
		deps, err := t.needs(name)
		if err != nil {
			return nil, err
		}
		for j := len(deps) - 1; j >= 0; j-- {
			add(deps[j])
		}
		add(name)
	}
	return out, nil
}

// signatureMark ends a signed module (linux/module_signature.h). Twelve bytes
// before it and the signature before those stand at the end of the ELF file.
const signatureMark = "~Module signature appended~\n"

// read returns the module as finit_module(2) takes it, without a signature: to
// check those of a dozen modules takes an emulated guest half of its agent's
// start, and says nothing, since the kernel comes from the same hands.
func (m module) read() ([]byte, error) {
	data, err := m.unpacked()
	if err != nil || !bytes.HasSuffix(data, []byte(signatureMark)) {
		return data, err
	}
	const info = 12
	body := data[:len(data)-len(signatureMark)]
	if len(body) < info {
		return data, nil
	}
	n := binary.BigEndian.Uint32(body[len(body)-4:]) // the signature's length
	if uint64(n) > uint64(len(body)-info) {
		return data, nil
	}
	return body[:len(body)-info-int(n)], nil
}

func (m module) unpacked() ([]byte, error) {
	data, err := os.ReadFile(m.file)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasSuffix(m.file, ".ko"):
		return data, nil
	case strings.HasSuffix(m.file, ".ko.zst"):
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return d.DecodeAll(data, nil)
	case strings.HasSuffix(m.file, ".ko.gz"):
		return gunzip(data)
	}
	return nil, fmt.Errorf("module %s: compressed by an unknown method (known: zst, gz)", m.file)
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzipReader(data)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
