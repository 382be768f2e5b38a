package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside marks the second start, in namespaces of its own.
const inside = "WHARF_E2E_INSIDE"

// shared is the daemon that all tests use that do not harm it; nil: see notHere.
var (
	shared  *daemon
	notHere string
	tools   struct{ docker, wharf, bin, images string }
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		notHere = "end-to-end tests need root: sudo make test"
		os.Exit(m.Run())
	}
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	os.Exit(run(m))
}

// reexec runs this binary again in new namespaces and passes signals on.
func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: new namespaces:", err)
		return 1
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode()
	}
	if err != nil {
		return 1
	}
	return 0
}

func run(m *testing.M) (code int) {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fail(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fail(err)
	}
	if err := findTools(); err != nil {
		return fail(err)
	}
	shared, err = newDaemon("main")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := shared.end(); err != nil {
			code = fail(err)
		}
		for _, pid := range strays() {
			code = fail(fmt.Errorf("left monitor %d: %s", pid, processes()[pid]))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	if err := shared.start(); err != nil {
		return fail(err)
	}
	for _, name := range []string{"busybox", "hello", "rich", "debian"} {
		if err := shared.load(name); err != nil {
			return fail(err)
		}
	}
	return m.Run()
}

// findTools builds the binaries (or takes WHARF_BIN) and finds the docker CLI
// and the images.
func findTools() error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	tools.bin = os.Getenv("WHARF_BIN")
	if tools.bin == "" {
		tools.bin = filepath.Join(root, "bin")
		build := exec.Command("make", "--no-print-directory", "build")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w\n%s", err, out)
		}
	}
	tools.wharf = filepath.Join(tools.bin, "wharf")
	tools.docker = os.Getenv("DOCKER_CLI")
	if tools.docker == "" {
		tools.docker, err = exec.LookPath("docker")
		if err != nil {
			tools.docker = filepath.Join(root, ".cache/peers/docker.io/usr/bin/docker")
		}
	}
	if _, err := os.Stat(tools.docker); err != nil {
		return fmt.Errorf("no docker CLI (bash test/setup.sh test): %w", err)
	}
	images := exec.Command("bash", filepath.Join(root, "test/images.sh"))
	images.Stderr = os.Stderr
	out, err := images.Output()
	if err != nil {
		return fmt.Errorf("test/images.sh: %w", err)
	}
	tools.images = strings.TrimSpace(string(out))
	return nil
}
