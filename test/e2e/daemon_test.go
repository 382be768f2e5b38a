package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// daemon is a wharfd under test with everything of its own.
type daemon struct {
	dir    string   // data, run, docker.sock, pid, daemon.log, config/
	parent string   // cgroup parent
	bin    string   // where wharfd is; "": tools.bin
	net    *os.File // network namespace; nil: the tests' own. Two daemons cannot share the default bridge
	args   []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{}
}

// newDaemon makes the directories. Paths are short: a unix socket's may have
// 107 bytes.
func newDaemon(name string, args ...string) (*daemon, error) {
	base := os.Getenv("WHARF_E2E_DIR")
	if base == "" {
		base = "/var/tmp"
	}
	dir, err := os.MkdirTemp(base, "wharf-"+name+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "config"), 0o700); err != nil {
		return nil, err
	}
	return &daemon{dir: dir, parent: fmt.Sprintf("wharf-test-%d-%s", os.Getpid(), filepath.Base(dir)), args: append(isolationFlags(), args...)}, nil
}

func (d *daemon) socket() string  { return filepath.Join(d.dir, "docker.sock") }
func (d *daemon) data() string    { return filepath.Join(d.dir, "data") }
func (d *daemon) execDir() string { return filepath.Join(d.dir, "run") }

// ownNetwork gives the daemon a network namespace that outlives its restarts.
func (d *daemon) ownNetwork() error {
	result := make(chan error)
	go func() {
		// For good: the thread ends with the goroutine. It is not the first
		// thread, which TestMain holds (init).
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			lo, err := h.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(lo); err != nil {
				return err
			}
			d.net, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
			return err
		}()
	}()
	return <-result
}

// start starts wharfd and waits until it answers.
func (d *daemon) start() error {
	logFile, err := os.OpenFile(filepath.Join(d.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	args := append([]string{
		"--data-root", d.data(), "--exec-root", d.execDir(), "-H", "unix://" + d.socket(),
		"--pidfile", filepath.Join(d.dir, "pid"), "--cgroup-parent", d.parent, "--log-level", "debug",
		"--config-file", filepath.Join(d.dir, "daemon.json"),
	}, d.args...)
	if _, err := os.Stat(filepath.Join(d.dir, "daemon.json")); err != nil {
		if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
			return err
		}
	}
	bin := d.bin
	if bin == "" {
		bin = tools.bin
	}
	cmd := exec.Command(filepath.Join(bin, "wharfd"), args...)
	if d.net != nil {
		enter := []string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), d.net.Fd()), filepath.Join(bin, "wharfd")}
		cmd = exec.Command("nsenter", append(enter, args...)...)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// Ctrl-C at the terminal is for the tests; they end the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("wharfd: %w", err)
	}
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }()
	d.mu.Lock()
	d.cmd, d.gone = cmd, gone
	d.mu.Unlock()
	return d.await(busy)
}

// await waits for an answer to a ping.
func (d *daemon) await(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		if resp, err := d.http().Get("http://wharf/_ping"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-d.gone:
			return fmt.Errorf("wharfd ended at start:\n%s", d.log(4000))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("wharfd does not answer after %s:\n%s", limit, d.log(4000))
}

// log returns the last n bytes of the daemon's log.
func (d *daemon) log(n int) string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "daemon.log"))
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(b)
}

// stop ends the daemon as a service manager does, kill as a crash does.
// Containers live on.
func (d *daemon) stop() error { return d.signal(syscall.SIGTERM, busy) }
func (d *daemon) kill() error { return d.signal(syscall.SIGKILL, busy) }

func (d *daemon) signal(sig syscall.Signal, limit time.Duration) error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Signal(sig)
	select {
	case <-d.gone:
		return nil
	case <-time.After(limit):
		_ = d.cmd.Process.Kill()
		<-d.gone
		return fmt.Errorf("wharfd did not end within %s of %s:\n%s", limit, sig, d.log(4000))
	}
}

// end removes every container, stops the daemon, and looks for leftovers.
func (d *daemon) end() error { return d.endKeeping(func() {}) }

// endKeeping is end with something to do between the daemon's end and the
// removal of its directory.
func (d *daemon) endKeeping(then func()) error {
	var errs []error
	if out := d.docker("ps", "-aq"); out.Stdout != "" {
		ids := strings.Fields(out.Stdout)
		errs = append(errs, fmt.Errorf("containers that no test removed: %v", ids))
		d.docker(append([]string{"rm", "-f", "-v"}, ids...)...)
	}
	errs = append(errs, d.emptyTrash(), eventually(3*time.Second, func() error { return d.fsck() }))
	errs = append(errs, d.stop())
	then()
	errs = append(errs, eventually(3*time.Second, func() error { return d.fsckDown() }))
	if err := errors.Join(errs...); err != nil {
		killStrays(d.dir) // so that a failed run leaves no processes
		return fmt.Errorf("%w\n(kept for you to look at: %s)", err, d.dir)
	}
	if os.Getenv("WHARF_E2E_KEEP") != "" {
		return nil
	}
	removeGroups(d.parent)
	return os.RemoveAll(d.dir)
}

func (d *daemon) load(image string) error {
	if r := d.command(5*commandLimit, nil, tools.docker, "load", "-i", filepath.Join(tools.images, image+".tar")); r.Code != 0 {
		return fmt.Errorf("docker load %s: %s\n%s", image, r, d.log(4000))
	}
	return nil
}

// http is a client for requests that no CLI would send.
func (d *daemon) http() *http.Client {
	return &http.Client{Timeout: commandLimit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.socket())
		},
	}}
}

func (d *daemon) sdk() (*client.Client, error) {
	return client.New(client.WithHost("unix://" + d.socket()))
}

// env is the environment of a CLI that talks to the daemon.
func (d *daemon) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "DOCKER_CONFIG=" + filepath.Join(d.dir, "config"),
		"DOCKER_HOST=unix://" + d.socket(), "TERM=xterm",
	}
}

// The first thread stays with TestMain: Go cannot end it, and /proc/self shows
// its namespaces.
func init() { runtime.LockOSThread() }
