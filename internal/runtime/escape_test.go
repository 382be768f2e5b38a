package runtime_test

import (
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

// The known ways out of a container, each as an image or a process inside
// would try it. docs/security.md names them.

// TestRuntimeBinary: what runs inside before the image's program is our own
// binary, which a process there can hold by /proc/PID/exe until nothing
// executes it any more, and then write to: root of the host with
// --userns=host (CVE-2019-5736). It is a read-only mount.
func TestRuntimeBinary(t *testing.T) {
	needRoot(t)
	b := bundle(t, "true")
	b.IDs = model.IDRange{}
	proc, err := runtime.Create(prepared(t, b), runtime.Files{})
	if err != nil {
		t.Fatal(err)
	}
	held, err := unix.Open("/proc/"+itoa(proc.Pid)+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	_ = proc.Signal(unix.SIGKILL)
	_, _ = proc.Wait()
	_ = proc.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(held)
	// With O_TRUNC the kernel asks the mount first; this test, which executes
	// the same file, would get ETXTBSY otherwise.
	fd, err := unix.Open("/proc/self/fd/"+itoa(held), unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != unix.EROFS {
		t.Errorf("open for writing: %v", err)
	}
	if err == nil {
		_ = unix.Close(fd)
	}
}

// TestExecDescriptors: a further process gets its streams and nothing of ours.
func TestExecDescriptors(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sleep", "100")
	main := started(t, b)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e := &model.ExecSpec{Process: &specs.Process{Args: []string{"ls", "/proc/self/fd"}, Cwd: "/", Env: []string{"PATH=/bin"}}}
	proc, err := runtime.Exec(main.Pid, preparedExec(t, b, e), runtime.Files{Stdout: w})
	_ = w.Close()
	if err == nil {
		err = proc.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	buf := make([]byte, 100)
	n, _ := r.Read(buf)
	_, _ = proc.Wait()
	if got := string(buf[:n]); got != "0\n1\n2\n3\n" { // 3 is ls's own
		t.Errorf("%q", got)
	}
	for fd := 3; fd < 20; fd++ { // and none of ours is a way out as a working directory
		e.Process.Cwd = "/proc/self/fd/" + itoa(fd)
		e.Process.Args = []string{"pwd"}
		proc, err := runtime.Exec(main.Pid, preparedExec(t, b, e), runtime.Files{})
		if err == nil {
			err = proc.Start()
			_, _ = proc.Wait()
			_ = proc.Close()
		}
		if err == nil {
			t.Errorf("descriptor %d was a working directory", fd)
		}
	}
}

// TestProcIsALink: with a link for /proc (or below it) what is masked would be
// somewhere else (CVE-2023-27561).
func TestProcIsALink(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"proc", "sys"} {
		b := bundle(t, "true")
		dir := b.Rootfs.Lower[0]
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("tmp", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if out, _, err := tryRun(t, b); err == nil || !strings.Contains(err.Error(), "ordinary directory") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

// noDev leaves /dev to the image.
func noDev(b *model.Bundle) {
	var keep []specs.Mount
	for _, m := range b.Spec.Mounts {
		if !strings.HasPrefix(m.Destination, "/dev") || m.Destination == "/dev/pts" {
			keep = append(keep, m)
		}
	}
	b.Spec.Mounts = keep
	b.IDs = model.IDRange{}
}

// TestMaskedFileOfTheImage: files are masked with the null device; an image
// that brings a file of its own in its place would have that shown
// (CVE-2025-31133).
func TestMaskedFileOfTheImage(t *testing.T) {
	needRoot(t)
	b := bundle(t, "cat", "/secret")
	noDev(b)
	write(t, filepath.Join(b.Rootfs.Lower[0], "dev/null"), "the image's", 0o666)
	write(t, filepath.Join(b.Rootfs.Lower[0], "secret"), "to be masked", 0o666)
	b.Spec.Linux.MaskedPaths = []string{"/secret"}
	if out, _, err := tryRun(t, b); err == nil || !strings.Contains(err.Error(), "not the null device") {
		t.Errorf("%v %q", err, out)
	}
}

// TestMaskedLink: a masked path that the image makes a link is followed inside
// the root, and covers nothing of the host.
func TestMaskedLink(t *testing.T) {
	needRoot(t)
	host := filepath.Join(t.TempDir(), "file")
	write(t, host, "host", 0o644)
	b := bundle(t, "sh", "-c", "cat /link; cat /etc/secret; echo end")
	dir := b.Rootfs.Lower[0]
	write(t, filepath.Join(dir, "etc/secret"), "secret\n", 0o644)
	for link, to := range map[string]string{"link": "../../etc/secret", "out": "../../../../../.." + host} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	b.Spec.Linux.MaskedPaths, b.Spec.Linux.ReadonlyPaths = []string{"/link", "/out"}, []string{"/out"}
	wantOutput(t, b, "end\n")
	if data, err := os.ReadFile(host); err != nil || string(data) != "host" {
		t.Errorf("the host's file: %q %v", data, err)
	}
}

// TestConsoleLink: /dev/console as a link that points out (CVE-2025-52565).
func TestConsoleLink(t *testing.T) {
	needRoot(t)
	host := t.TempDir()
	b := bundle(t, "sh", "-c", "echo end")
	noDev(b)
	dir := b.Rootfs.Lower[0]
	if err := os.Symlink("../../../../../.."+host+"/console", filepath.Join(dir, "dev/console")); err != nil {
		t.Fatal(err)
	}
	b.Spec.Process.Terminal = true
	proc := startedWith(t, b, runtime.Files{})
	if out := readConsole(t, proc); out != "end\r\n" {
		t.Errorf("%q", out)
	}
	if left, _ := os.ReadDir(host); len(left) != 0 {
		t.Errorf("made on the host: %v", left)
	}
	if _, err := os.Stat(filepath.Join(b.Rootfs.Upper, host, "console")); err != nil {
		t.Errorf("what the link names inside: %v", err)
	}
}

// TestFakeProc: sysctls and labels are written to the kernel, not to what the
// image shows as /proc (CVE-2019-16884, CVE-2025-52881).
func TestFakeProc(t *testing.T) {
	needRoot(t)
	b := bundle(t, "cat", "/proc/sys/net/ipv4/ip_forward")
	b.Spec.Mounts = b.Spec.Mounts[1:] // no /proc
	b.Spec.Linux.MaskedPaths, b.Spec.Linux.ReadonlyPaths = nil, nil
	fake := filepath.Join(b.Rootfs.Lower[0], "proc/sys/net/ipv4")
	if err := os.MkdirAll(fake, 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(fake, "ip_forward"), "fake\n", 0o666)
	b.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	wantOutput(t, b, "fake\n")
}

// TestCraftedPasswd: the file of users is whatever the image has there.
func TestCraftedPasswd(t *testing.T) {
	needRoot(t)
	host := filepath.Join(t.TempDir(), "passwd")
	write(t, host, "www:x:0:0::/:/bin/sh\n", 0o644)
	for name, craft := range map[string]func(file string) error{
		"pipe":      func(f string) error { return unix.Mkfifo(f, 0o644) },
		"directory": func(f string) error { return os.Mkdir(f, 0o755) },
		"endless":   func(f string) error { return os.Symlink("/dev/zero", f) },
		"huge":      func(f string) error { return os.WriteFile(f, nil, 0o644) },
		"outside":   func(f string) error { return os.Symlink("../../../../../.."+host, f) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bundle(t, "id", "-u")
			b.User = "www"
			file := filepath.Join(b.Rootfs.Lower[0], "etc/passwd")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := craft(file); err != nil {
				t.Fatal(err)
			}
			if name == "huge" {
				if err := os.Truncate(file, 1<<40); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan string, 1)
			go func() {
				out, _, err := tryRun(t, b)
				if err == nil {
					out = "ran as " + out
				} else {
					out = ""
				}
				done <- out
			}()
			select {
			case out := <-done:
				if out != "" {
					t.Error(out)
				}
			case <-time.After(time.Minute):
				t.Fatal("hangs")
			}
		})
	}
}

// TestInjection: what would become a second variable, line or label.
func TestInjection(t *testing.T) {
	for name, change := range map[string]func(*specs.Process){
		"variable with NUL": func(p *specs.Process) { p.Env = []string{"A=b\x00LD_PRELOAD=/x"} },
		"no variable":       func(p *specs.Process) { p.Env = []string{"LD_PRELOAD"} },
		"argument with NUL": func(p *specs.Process) { p.Args = []string{"true\x00sh"} },
		"label":             func(p *specs.Process) { p.SelinuxLabel = "a:b:c\nd" },
		"profile":           func(p *specs.Process) { p.ApparmorProfile = "a\x00changeprofile b" },
		"profile with line": func(p *specs.Process) { p.ApparmorProfile = "a\nb" },
		"directory":         func(p *specs.Process) { p.Cwd = "/a\x00b" },
	} {
		s := defaultSpec("true")
		change(s.Process)
		b := &model.Bundle{ID: model.NewID(), Spec: s, Rootfs: model.Rootfs{Dir: "/nowhere"}, IDs: model.IDRange{Host: 1000000, Size: 65536}}
		if _, err := prepare.Container(b, "", prepare.Options{}); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := prepare.Exec(b, &model.ExecSpec{Process: s.Process}, "", prepare.Options{}); err == nil {
			t.Errorf("%s was taken by exec", name)
		}
	}
}

// TestSharedHost: where the host's mounts are shared, as systemd makes them,
// nothing that is mounted in a root comes out on the host.
func TestSharedHost(t *testing.T) {
	needRoot(t)
	roots := map[string]func(*model.Bundle){
		"a directory": func(b *model.Bundle) { b.Rootfs = model.Rootfs{Dir: b.Rootfs.Lower[0]} },
		"one layer":   func(b *model.Bundle) { b.Rootfs = model.Rootfs{Lower: b.Rootfs.Lower} },
		"an upper":    func(b *model.Bundle) { b.Rootfs = model.Rootfs{Upper: b.Rootfs.Lower[0]} },
		"an overlay":  func(*model.Bundle) {},
	}
	for name, change := range roots {
		t.Run(name, func(t *testing.T) {
			b := bundle(t, "sh", "-c", "grep -c ' /proc ' /proc/self/mountinfo")
			dir := b.Rootfs.Lower[0]
			for _, d := range []string{"proc", "sys", "dev", "dev/pts", "dev/shm", "dev/mqueue"} {
				_ = os.MkdirAll(filepath.Join(dir, d), 0o755)
			}
			change(b)
			var out, leaked string
			var err error
			inSharedTree(t, func() {
				out, _, err = tryRun(t, b)
				mounts := hostMounts()
				for _, line := range strings.Split(mounts, "\n") {
					if strings.Contains(line, " "+dir) {
						leaked += line + "\n"
					}
				}
			})
			if err != nil || out != "1\n" {
				t.Errorf("%v %q", err, out)
			}
			if leaked != "" {
				t.Errorf("on the host:\n%s", leaked)
			}
		})
	}
}

// inSharedTree runs f on a thread with a mount namespace of its own, in which
// everything is shared.
func inSharedTree(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: it ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestBindSubpath: a part of a directory that others write to at the same time
// (a cache of build steps) is what it is looked at, never what a link that
// they put in its place stands for (CVE-2024-23651).
func TestBindSubpath(t *testing.T) {
	needRoot(t)
	host, cache := t.TempDir(), t.TempDir()
	write(t, filepath.Join(host, "file"), "host", 0o644)
	for _, d := range []string{"part", "inside"} {
		if err := os.Mkdir(filepath.Join(cache, d), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(cache, d, "file"), d, 0o644)
	}
	if err := os.Symlink(host, filepath.Join(cache, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/inside", filepath.Join(cache, "own")); err != nil {
		t.Fatal(err)
	}
	show := func(sub string) (string, error) {
		b := bundle(t, "cat", "/m/file")
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: cache, Options: []string{"rbind", "rprivate", "subpath=" + sub}})
		out, _, err := tryRun(t, b)
		return out, err
	}
	for sub, want := range map[string]string{"part": "part", "own": "inside", "link": ""} {
		if got, err := show(sub); got != want || (want == "") != (err != nil) {
			t.Errorf("%s: %q %v", sub, got, err)
		}
	}
	if goruntime.NumCPU() < 2 {
		return // the exchange would only take the processor
	}
	stop := make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for a, b := filepath.Join(cache, "part"), filepath.Join(cache, "link"); ; {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 12 {
		if got, err := show("part"); err == nil && got != "part" {
			t.Errorf("shown: %q", got)
		}
	}
	close(stop)
	<-gone
}

// TestStageUntraceable: what of ours runs inside, with the host's descriptors
// and rights still to be given up, cannot be looked into by a process of the
// container, its root included.
func TestStageUntraceable(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sleep", "100")
	main := started(t, b)
	exec := func(w *os.File, args ...string) *runtime.Process {
		t.Helper()
		e := &model.ExecSpec{Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: b.Spec.Process.Capabilities}}
		proc, err := runtime.Exec(main.Pid, preparedExec(t, b, e), runtime.Files{Stdout: w, Stderr: w})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proc.Close() })
		return proc
	}
	stage := exec(nil, "true") // waits for the word to go
	status, err := os.ReadFile("/proc/" + itoa(stage.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	ids := strings.Fields(line)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	proc := "/proc/" + ids[len(ids)-1]
	look := exec(w, "sh", "-c", "readlink /proc/1/exe; ls "+proc+"/fd "+proc+"/root/; readlink "+proc+"/exe; cat "+proc+"/maps "+proc+"/environ; echo end")
	_ = w.Close()
	if err := look.Start(); err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	_, _ = look.Wait()
	got := strings.ReplaceAll(string(out), ": Permission denied\n", "")
	if !strings.HasPrefix(got, "/bin/busybox\n") || strings.Contains(got, "wharf") || strings.Contains(got, "r-xp") || strings.Count(string(out), "denied") < 3 {
		t.Errorf("seen of the stage:\n%s", out)
	}
	if err := stage.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = stage.Wait()
}
