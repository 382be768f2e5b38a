package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
)

// OwnDir is where an installation puts wharf's own kernel ("make kernel"):
// vmlinux, and in modules/ the few drivers that are modules. Below
// OwnRoot a distribution's kernel may lie unpacked (boot/, lib/modules/) where
// nobody wants it installed.
const (
	OwnDir  = "/usr/lib/wharf/own"
	OwnRoot = "/usr/lib/wharf/kernel"
)

// Kernel is one that was found.
type Kernel struct {
	Path    string // bzImage or vmlinux
	Modules string // /lib/modules/<release>; "" when everything is built in
	Release string // "6.1.0-56-cloud-amd64", or "own"
	Why     string // how it was chosen, for a person
}

// places are where kernels are looked for; tests have their own.
type places struct {
	own   string // directory
	roots []root
}

type root struct {
	boot    string
	modules []string
}

func machinePlaces() places {
	return places{own: OwnDir, roots: []root{
		{"/boot", []string{"/lib/modules", "/usr/lib/modules"}},
		{OwnRoot + "/boot", []string{OwnRoot + "/lib/modules", OwnRoot + "/usr/lib/modules"}},
	}}
}

// Find chooses the kernel. configured is a path from the configuration, with
// its modules' directory if it has any; "" looks.
func Find(configured, modules string) (Kernel, error) {
	return machinePlaces().find(configured, modules)
}

func (p places) find(configured, modules string) (Kernel, error) {
	if configured != "" {
		return p.configured(configured, modules)
	}
	if k := (Kernel{Path: filepath.Join(p.own, "vmlinux"), Release: "own", Why: "wharf's own kernel (make kernel)"}); exists(k.Path) {
		if m := filepath.Join(p.own, "modules"); exists(filepath.Join(m, builtinList)) {
			k.Modules = m
		}
		return k, nil
	}
	for _, suffix := range []string{"-cloud-" + runtime.GOARCH, "-" + runtime.GOARCH, ""} {
		for _, r := range p.roots {
			k, err := r.newest(suffix)
			if err == nil {
				return k, nil
			}
			if !errors.Is(err, os.ErrNotExist) {
				return Kernel{}, err
			}
		}
	}
	return Kernel{}, errdefs.ErrUnavailable.WithMessage("no kernel for virtual machines in " + p.roots[0].boot +
		": install linux-image-cloud-" + runtime.GOARCH + ", or set vm-kernel in daemon.json to a bzImage or vmlinux")
}

func (p places) configured(path, modules string) (Kernel, error) {
	if _, err := os.Stat(path); err != nil {
		return Kernel{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("vm-kernel: %v", err))
	}
	k := Kernel{Path: path, Modules: modules, Release: release(path), Why: "configured (vm-kernel)"}
	for _, r := range p.roots {
		if k.Modules == "" && k.Release != "" {
			k.Modules = r.modulesOf(k.Release)
		}
	}
	return k, nil
}

func release(path string) string {
	r, ok := strings.CutPrefix(filepath.Base(path), "vmlinuz-")
	if !ok {
		return ""
	}
	return r
}

// newest finds the newest kernel of Debian's in /boot whose name ends so and
// that has its modules.
func (r root) newest(suffix string) (Kernel, error) {
	names, err := filepath.Glob(filepath.Join(r.boot, "vmlinuz-*"+suffix))
	if err != nil {
		return Kernel{}, err
	}
	sort.Slice(names, func(i, j int) bool { return versionLess(names[i], names[j]) })
	for i := len(names) - 1; i >= 0; i-- {
		k := Kernel{Path: names[i], Release: release(names[i])}
		if k.Modules = r.modulesOf(k.Release); k.Modules == "" {
			continue
		}
		k.Why = "the newest in " + r.boot
		if suffix != "" {
			k.Why += " for *" + suffix
		}
		return k, nil
	}
	return Kernel{}, os.ErrNotExist
}

func (r root) modulesOf(release string) string {
	for _, dir := range r.modules {
		m := filepath.Join(dir, release)
		if exists(filepath.Join(m, builtinList)) {
			return m
		}
	}
	return ""
}

// builtinList is in every directory of modules.
const builtinList = "modules.builtin"

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// versionLess orders names by their numbers: 6.1.0-9 is before 6.1.0-10.
func versionLess(a, b string) bool {
	for a != "" && b != "" {
		na, ra := number(a)
		nb, rb := number(b)
		if na >= 0 && nb >= 0 {
			if na != nb {
				return na < nb
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) < len(b)
}

// number cuts a number off s; -1 when there is none.
func number(s string) (n int, rest string) {
	i := 0
	for i < len(s) && i < 18 && s[i] >= '0' && s[i] <= '9' {
		n = n*10 + int(s[i]-'0')
		i++
	}
	if i == 0 {
		return -1, s
	}
	return n, s[i:]
}
