package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bench holds the engines and what was measured.
type bench struct {
	options
	dir     string
	docker  string // the stock CLI that drives both daemons
	wharf   *engine
	dockerd *engine // nil: not installed
	podman  string  // path, "" when not installed
	crun    string
	runc    string
	bundle  string    // for crun and runc
	v1only  *exec.Cmd // holds a mount namespace without the version 2 mount, which crun refuses beside version 1
	rows    []figure
	whole   bool // rows are all of the section verbs
	peers   bool // startPeers was called
	scales  []scaled
	network *netFigures
	vms     []vmRow
	builds  []buildRow
}

// engine is a daemon of its own with a Docker API.
type engine struct {
	name, dir, run, socket, version string
	cmd                             *exec.Cmd
	http                            *http.Client
}

func (b *bench) start() error {
	var err error
	if b.docker, err = lookPath("docker"); err != nil {
		return err
	}
	b.wharf = newEngine("wharf", b.dir)
	if err := b.startWharf(); err != nil {
		return err
	}
	return b.loadImages(b.wharf)
}

// startPeers starts dockerd and prepares the others, once.
func (b *bench) startPeers() error {
	if b.peers {
		return nil
	}
	b.peers = true
	if path, err := lookPath("dockerd"); err == nil {
		b.dockerd = newEngine("docker", b.dir)
		if err := b.dockerd.start(path); err != nil {
			fmt.Fprintln(os.Stderr, "bench: docker is left out:", err)
			_ = b.dockerd.stop()
			b.dockerd = nil
		} else if err := b.loadImages(b.dockerd); err != nil {
			return err
		}
	}
	if !b.wants("verbs") {
		return nil
	}
	b.podman, _ = lookPath("podman")
	b.crun, _ = lookPath("crun")
	b.runc, _ = lookPath("runc")
	return b.prepareOthers()
}

// loadImages loads what the sections need and notes the engine's version.
func (b *bench) loadImages(e *engine) error {
	for _, image := range []string{"busybox", "debian"} {
		if image == "debian" && (b.quick || !b.wants("verbs")) {
			continue
		}
		if err := b.cli(e, "load", "-q", "-i", filepath.Join(b.images, image+".tar")); err != nil {
			return err
		}
	}
	out, _ := b.cliOut(e, "version", "-f", "{{.Server.Version}}")
	e.version = strings.TrimSpace(out)
	return nil
}

func (b *bench) startWharf() error {
	return b.wharf.start(filepath.Join(b.bin, "wharfd"), "--cgroup-parent", fmt.Sprintf("wharf-bench-%d", os.Getpid()))
}

// prepareOthers unpacks busybox for the floor and for bare runtimes, and loads
// it into podman. A peer that does not work here is left out, with the reason.
func (b *bench) prepareOthers() error {
	for _, d := range []string{"floor/lower", "floor/upper", "floor/work", "floor/root", "bundle/rootfs"} {
		if err := os.MkdirAll(filepath.Join(b.dir, d), 0o755); err != nil {
			return err
		}
	}
	if _, err := b.cliOut(b.wharf, "create", "--name", "rootfs", "busybox", "true"); err != nil {
		return err
	}
	for _, d := range []string{"floor/lower", "bundle/rootfs"} {
		script := fmt.Sprintf("%s export rootfs | tar -C %s -x", b.docker, filepath.Join(b.dir, d))
		cmd := exec.Command("sh", "-c", script)
		cmd.Env = b.env(b.wharf)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
	}
	if err := b.cli(b.wharf, "rm", "rootfs"); err != nil {
		return err
	}
	b.bundle = filepath.Join(b.dir, "bundle")
	if b.runc != "" {
		b.runc = b.usable("runc", b.runc, func() error { return b.runcSpec() }, func() error { return b.bare(b.runc) })
	}
	if err := b.hideUnified(); err != nil {
		return err
	}
	if b.crun != "" && b.runc != "" {
		b.crun = b.usable("crun", b.crun, func() error { return nil }, func() error { return b.bare(b.crun) })
	} else {
		b.crun = ""
	}
	if b.podman != "" {
		b.podman = b.usable("podman", b.podman, func() error {
			return b.pod("load", "-q", "-i", filepath.Join(b.images, "busybox.tar"))
		}, b.podRun)
	}
	return nil
}

// usable runs a peer's preparation and one try.
func (b *bench) usable(name, path string, steps ...func() error) string {
	for _, s := range steps {
		if err := s(); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", name, err)
			return ""
		}
	}
	return path
}

func (b *bench) engines() []*engine {
	if b.dockerd == nil {
		return []*engine{b.wharf}
	}
	return []*engine{b.wharf, b.dockerd}
}

func newEngine(name, dir string) *engine {
	// As installed, what does not outlive the machine is on a tmpfs.
	e := &engine{name: name, dir: filepath.Join(dir, name), run: "/run/bench-" + name}
	e.socket = filepath.Join(e.dir, "s")
	e.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
		}}}
	return e
}

func (e *engine) start(path string, args ...string) error {
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args = append([]string{"--data-root", e.dir + "/data", "--exec-root", e.run, "-H", "unix://" + e.socket,
		"--pidfile", e.dir + "/pid"}, args...)
	e.cmd = exec.Command(path, args...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := e.call("GET", "/_ping", ""); err == nil {
			return nil
		}
		if e.cmd.ProcessState != nil {
			break
		}
	}
	b, _ := os.ReadFile(filepath.Join(e.dir, "log"))
	return fmt.Errorf("%s does not answer:\n%s", e.name, b)
}

func (e *engine) stop() error {
	if e == nil || e.cmd == nil || e.cmd.Process == nil {
		return nil
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = e.cmd.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(20 * time.Second):
		_ = e.cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s had to be killed", e.name)
	}
}

// call is one API request.
func (e *engine) call(method, path, body string) (string, error) {
	req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		err = fmt.Errorf("%s %s %s: %s: %s", e.name, method, path, resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), err
}

func (b *bench) env(e *engine) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "DOCKER_CONFIG=" + b.dir, "DOCKER_HOST=unix://" + e.socket}
}

func (b *bench) cliOut(e *engine, args ...string) (string, error) {
	return b.commandOut(b.docker, e, args...)
}

func (b *bench) commandOut(path string, e *engine, args ...string) (string, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = b.env(e)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %s %s: %w: %s", e.name, filepath.Base(path), strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (b *bench) cli(e *engine, args ...string) error {
	_, err := b.cliOut(e, args...)
	return err
}

// pod runs podman with everything below the bench's directory.
func (b *bench) pod(args ...string) error {
	base := []string{"--root", b.dir + "/podman/root", "--runroot", b.dir + "/podman/run", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	out, err := b.inV1(b.podman, append(base, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("podman %s: %w: %s", args[0], err, out)
	}
	return nil
}

// podRun is podman's run of true. The limits are the inherited ones: podman's
// own defaults cannot be set where CAP_SYS_RESOURCE is missing.
func (b *bench) podRun() error {
	return b.pod("run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "busybox", "true")
}

// hideUnified makes the mount namespace for crun and podman on a hybrid machine.
func (b *bench) hideUnified() error {
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return nil
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "umount "+unified+" && echo ready && exec sleep 100000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.v1only = cmd
	_, err = out.Read(make([]byte, 10))
	return err
}

// inV1 runs a program where only version 1 control groups are mounted.
func (b *bench) inV1(path string, args ...string) *exec.Cmd {
	if b.v1only == nil {
		return exec.Command(path, args...)
	}
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", b.v1only.Process.Pid), "--", path}, args...)...)
}

// runcSpec writes a default config.json with /bin/true.
func (b *bench) runcSpec() error {
	script := `cd "$1" && "$2" spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"true"/' config.json`
	if out, err := exec.Command("sh", "-c", script, "sh", b.bundle, b.runc).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	return nil
}

// bare runs the bundle with an OCI runtime.
func (b *bench) bare(path string) error {
	args := []string{"--root", b.dir + "/oci", "run", "--bundle", b.bundle, "bench" + strconv.Itoa(os.Getpid())}
	cmd := exec.Command(path, args...)
	if filepath.Base(path) == "crun" {
		cmd = b.inV1(path, args...)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s run: %w: %s", filepath.Base(path), err, out)
	}
	return nil
}

// end stops the daemons and removes everything.
func (b *bench) end() error {
	var errs []error
	for _, e := range []*engine{b.wharf, b.dockerd} {
		if e == nil {
			continue
		}
		if ids, err := b.cliOut(e, "ps", "-aq"); err == nil && ids != "" {
			errs = append(errs, b.cli(e, append([]string{"rm", "-f"}, strings.Fields(ids)...)...))
		}
		errs = append(errs, e.stop())
	}
	if b.v1only != nil {
		_ = b.v1only.Process.Kill()
		_ = b.v1only.Wait()
	}
	// dockerd leaves mounts behind in this namespace, which ends with us; below
	// them nothing may be removed.
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && strings.HasPrefix(f[1], b.dir) {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
	groups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/wharf-bench-%d", os.Getpid()))
	for _, g := range groups {
		_ = os.Remove(g)
	}
	errs = append(errs, os.RemoveAll(b.dir))
	return errors.Join(errs...)
}

// lookPath finds a program on PATH, in sbin, or among the unpacked peers.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
		found, _ := filepath.Glob(".cache/peers/*" + filepath.Join(dir, name))
		if len(found) > 0 {
			return filepath.Abs(found[0])
		}
	}
	return "", fmt.Errorf("%s is not installed: bash test/setup.sh bench", name)
}
