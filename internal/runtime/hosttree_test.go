package runtime_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

// TestHostTree: an OCI configuration without a mount namespace gets the host's
// tree, with the root by chroot(2); a further process gets the same root, and
// nothing of it stays on the host. wharf's own containers never do.
func TestHostTree(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sleep", "100")
	dir := b.Rootfs.Lower[0]
	write(t, filepath.Join(dir, "here"), "the container's", 0o644)
	b.IDs, b.Rootfs = model.IDRange{}, model.Rootfs{Dir: dir}
	b.Spec.Linux.MaskedPaths, b.Spec.Linux.ReadonlyPaths = nil, nil
	b.Spec.Linux.Namespaces = slices.DeleteFunc(b.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
	if _, err := prepare.Container(b, "", prepare.Options{}); err == nil {
		t.Error("a container of wharf's without a mount namespace")
	}
	o := prepare.Options{Unshifted: true, RootTarget: dir, SpecUser: true}
	inSharedTree(t, func() {
		p, err := prepare.Container(b, parent+"/"+b.ID.Short(), o)
		if err != nil {
			t.Error(err)
			return
		}
		proc, err := runtime.Create(p, runtime.Files{})
		if err == nil {
			err = proc.Start()
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer proc.Close()
		e := &model.ExecSpec{Process: &specs.Process{Args: []string{"cat", "/here"}, Cwd: "/", Env: []string{"PATH=/bin"}}}
		x, err := prepare.Exec(b, e, parent+"/"+b.ID.Short(), o)
		if err != nil {
			t.Error(err)
			return
		}
		r, w, _ := os.Pipe()
		defer r.Close()
		further, err := runtime.Exec(proc.Pid, x, runtime.Files{Stdout: w})
		_ = w.Close()
		if err == nil {
			err = further.Start()
		}
		if err != nil {
			t.Error(err)
			return
		}
		buf := make([]byte, 100)
		n, _ := r.Read(buf)
		_, _ = further.Wait()
		_ = further.Close()
		if string(buf[:n]) != "the container's" {
			t.Errorf("exec saw %q", buf[:n])
		}
		if !strings.Contains(hostMounts(), " "+dir+"/proc ") {
			t.Error("the container's mounts are not in the host's tree")
		}
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		if err := runtime.DropRoot(dir, proc.RootMount+1); err != nil || !strings.Contains(hostMounts(), dir) {
			t.Errorf("another mount was dropped: %v", err)
		}
		if err := runtime.DropRoot(dir, proc.RootMount); err != nil {
			t.Error(err)
		}
		if left := hostMounts(); strings.Contains(left, dir) {
			t.Errorf("left on the host:\n%s", left)
		}
	})
	b.Spec.Linux.MaskedPaths = []string{"/proc/kcore"}
	if _, err := prepare.Container(b, "", o); err == nil || !strings.Contains(err.Error(), "maskedPaths") {
		t.Errorf("masked paths on the host: %v", err)
	}
}

func hostMounts() string {
	data, _ := os.ReadFile("/proc/thread-self/mountinfo")
	return string(data)
}

// TestDevIsALink: with a link for /dev an image chose where the runtime makes
// device nodes and links (CVE-2026-41579).
func TestDevIsALink(t *testing.T) {
	needRoot(t)
	host := t.TempDir()
	for _, to := range []string{host, "../../../../../.." + host, "tmp"} {
		for _, how := range []string{"wharf's", "OCI", "OCI without /dev"} {
			b := bundle(t, "sh", "-c", "test -c /dev/null && echo fine")
			dir := b.Rootfs.Lower[0]
			if err := os.Remove(filepath.Join(dir, "dev")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, filepath.Join(dir, "dev")); err != nil {
				t.Fatal(err)
			}
			o := prepare.Options{}
			if how == "OCI without /dev" {
				noDev(b)
			}
			if how != "wharf's" { // the stage makes /dev, with the host's rights
				b.IDs, b.Rootfs = model.IDRange{}, model.Rootfs{Dir: dir}
				o = prepare.Options{Unshifted: true, RootTarget: dir, SpecUser: true}
			}
			p, err := prepare.Container(b, parent+"/"+b.ID.Short(), o)
			if err != nil {
				t.Fatal(err)
			}
			if out, _, err := runPrepared(t, p, runtime.Files{}); err == nil && out != "fine\n" {
				t.Errorf("%s, %s: %q", to, how, out)
			}
			if names, _ := os.ReadDir(host); len(names) > 0 {
				t.Errorf("%s, %s: made on the host: %v", to, how, names)
			}
		}
	}
}

// TestNotIdmappable: a directory on a file system that cannot show its files
// with a container's ids is refused with the remedy, which works.
func TestNotIdmappable(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	inSharedTree(t, func() {
		if err := unix.Mount("none", dir, "ramfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		write(t, filepath.Join(dir, "file"), "seen", 0o644)
		b := bundle(t, "cat", "/m/file")
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate"}})
		_, _, err := tryRun(t, b)
		var not *runtime.NotIdmappableError
		if !errors.As(err, &not) || !strings.Contains(err.Error(), "--userns=host") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v", err)
		}
		b.IDs, b.Rootfs = model.IDRange{}, model.Rootfs{Dir: b.Rootfs.Lower[0]}
		if out, _, err := tryRun(t, b); err != nil || out != "seen" {
			t.Errorf("with the host's ids: %q %v", out, err)
		}
	})
}
