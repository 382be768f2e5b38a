package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
	"wharf/internal/undo"
)

// createOptions are the flags of create and run.
type createOptions struct {
	bundle, consoleSocket, pidFile, pidfdSocket string
	noPivot, noNewKeyring                       bool
	preserveFDs                                 int
}

func (o *createOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.bundle, "bundle", "b", "", "directory of the bundle; default the current one")
	f.StringVar(&o.consoleSocket, "console-socket", "", "unix socket that gets the terminal")
	f.StringVar(&o.pidFile, "pid-file", "", "file for the process id")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that gets a descriptor of the process")
	f.BoolVar(&o.noPivot, "no-pivot", false, "not supported")
	f.BoolVar(&o.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	f.IntVar(&o.preserveFDs, "preserve-fds", 0, "pass on so many descriptors after standard error")
	f.SetInterspersed(true)
}

func createCommand(g *global) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{Use: "create ID", Short: "make a container; its process waits for start", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, proc, err := g.create(args[0], &o, false)
			if err != nil {
				return err
			}
			if err := c.handOver(proc, o.consoleSocket); err != nil {
				_ = proc.Close()
				return errors.Join(err, c.destroy(g))
			}
			proc.Detach()
			return nil
		}}
	o.flags(cmd)
	return cmd
}

// create makes the container. attached: a terminal may stay with us.
func (g *global) create(id string, o *createOptions, attached bool) (_ *container, _ *runtime.Process, err error) {
	var u undo.Stack
	defer u.OnError(&err)
	c, err := g.newContainer(id, o, &u)
	if err != nil {
		return nil, nil, err
	}
	terminal := c.spec.Process != nil && c.spec.Process.Terminal
	switch {
	case terminal && o.consoleSocket == "" && !attached:
		return nil, nil, errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !terminal && o.consoleSocket != "":
		return nil, nil, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	fifo, err := c.makeFifo()
	if err != nil {
		return nil, nil, err
	}
	defer fifo.Close()
	files := runtime.Files{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Fifo: fifo}
	if files.Extra, err = extraFiles(o.preserveFDs); err != nil {
		return nil, nil, err
	}
	c.Prepared, err = prepare.Container(c.bundle(), c.Cgroup, prepare.Options{
		SpecUser: true, Unshifted: true, Bundle: c.Bundle, RootTarget: c.Rootfs, NoNewKeyring: o.noNewKeyring,
	})
	if err != nil {
		return nil, nil, err
	}
	joinUnified(c.Prepared.Cgroup, c.Cgroup)
	proc, err := runtime.Create(c.Prepared, files)
	if err != nil {
		return nil, nil, fmt.Errorf("unable to start container process: %w", err)
	}
	g.trace(proc.Trace)
	u.Push(func() error { return runtime.DropRoot(c.Rootfs, proc.RootMount) })
	u.Push(c.group().Remove)
	u.Push(proc.Close)
	if err := c.latePids(); err != nil {
		return nil, nil, err
	}
	g.warn(proc.Warnings)
	c.Prepared = &runtime.Prepared{ID: c.ID, Bundle: c.Bundle, Annotations: c.spec.Annotations, Hooks: c.Prepared.Hooks}
	c.RootMount = proc.RootMount
	c.Pid, c.Created = proc.Pid, time.Now().UTC()
	if c.StartTime, _, err = procStat(proc.Pid); err != nil {
		return nil, nil, err
	}
	if err := c.save(); err != nil {
		return nil, nil, err
	}
	if err := sendPidfd(proc.Pid, o.pidfdSocket); err != nil {
		return nil, nil, err
	}
	return c, proc, writePidFile(o.pidFile, proc.Pid)
}

// joinUnified puts the container into the version 2 hierarchy too where that
// stands beside version 1 and limits nothing: others look there for what
// belongs together. wharf's own containers save themselves the directory.
func joinUnified(plan *runtime.Cgroup, path string) {
	l := cgroup.Detect()
	if l.V2 == "" || l.Unified() || slices.ContainsFunc(plan.Dirs, func(d runtime.CgroupDir) bool { return d.Base == l.V2 }) {
		return
	}
	plan.Dirs = append(plan.Dirs, runtime.CgroupDir{Base: l.V2, Path: path, Join: true})
}

func (g *global) newContainer(id string, o *createOptions, u *undo.Stack) (*container, error) {
	if o.noPivot {
		return nil, errors.New("--no-pivot is not supported: the root is entered by pivot_root")
	}
	dir, err := g.dir(id)
	if err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(o.bundle)
	if err != nil {
		return nil, err
	}
	spec, err := readSpec(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	if spec.Root == nil || spec.Process == nil {
		return nil, errors.New("config.json has no root or no process")
	}
	var pids *specs.LinuxPids
	if spec.Linux != nil {
		pids = earlyPids(spec.Linux.Resources)
		pidsOfZero(spec.Linux.Resources)
		g.warn(deviceLetters(spec.Linux.Resources))
	}
	if err := os.MkdirAll(g.root, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o711); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("container with given ID already exists: %s", id)
		}
		return nil, err
	}
	u.Push(func() error { return os.RemoveAll(dir) })
	c := &container{dir: dir, spec: spec, pids: pids, record: record{ID: id, Bundle: bundle}}
	c.Rootfs = spec.Root.Path
	if !filepath.IsAbs(c.Rootfs) {
		c.Rootfs = filepath.Join(bundle, c.Rootfs)
	}
	if c.Rootfs, err = filepath.EvalSymlinks(c.Rootfs); err != nil {
		return nil, fmt.Errorf("root of the container: %w", err)
	}
	path := ""
	if spec.Linux != nil {
		path = spec.Linux.CgroupsPath
	}
	if c.Cgroup, err = cgroup.Clean(path, id); err != nil {
		return nil, err
	}
	if err := c.unused(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
}

// unused: the cgroup is not somebody else's.
func (c *container) unused() error {
	if pids, err := c.group().Pids(); err == nil && len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found in %s", len(pids), c.Cgroup)
	}
	if c.group().Frozen() { // the stage would wait in it for ever
		return fmt.Errorf("container's cgroup unexpectedly frozen: %s", c.Cgroup)
	}
	return nil
}

// makeFifo makes what start opens.
func (c *container) makeFifo() (*os.File, error) {
	if err := unix.Mkfifo(c.fifo(), 0o622); err != nil {
		return nil, err
	}
	if err := os.Chmod(c.fifo(), 0o622); err != nil { // a mapped root has to open it
		return nil, err
	}
	fd, err := unix.Open(c.fifo(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "exec.fifo"), nil
}

func extraFiles(n int) ([]*os.File, error) {
	var out []*os.File
	for i := 3; i < 3+n; i++ {
		if _, err := unix.FcntlInt(uintptr(i), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", i-3, n, err)
		}
		out = append(out, os.NewFile(uintptr(i), "preserved"))
	}
	return out, nil
}

func writePidFile(file string, pid int) error {
	if file == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// handOver sends the terminal to whoever waits at the socket.
func (c *container) handOver(proc *runtime.Process, socket string) error {
	if proc.Console == nil {
		return nil
	}
	return sendConsole(proc.Console, socket)
}

func sendConsole(console *os.File, socket string) error {
	defer console.Close()
	return sendFile(console, "/dev/ptmx", socket)
}

// sendPidfd gives whoever waits at the socket a handle of the process that no
// other process can come by.
func sendPidfd(pid int, socket string) error {
	if socket == "" {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	return sendFile(f, "pidfd", socket)
}

func sendFile(f *os.File, name, socket string) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: socket}); err != nil {
		return fmt.Errorf("socket %s: %w", socket, err)
	}
	return unix.Sendmsg(s, []byte(name), unix.UnixRights(int(f.Fd())), nil, 0)
}

func startCommand(g *global) *cobra.Command {
	return &cobra.Command{Use: "start ID", Short: "let a created container's process run", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.load(args[0])
			if err != nil {
				return err
			}
			switch s := c.status(); s {
			case specs.StateCreated:
				return c.start(g)
			case specs.StateStopped:
				return errors.New("cannot start a container that has stopped")
			default:
				return errors.New("cannot start an already running container")
			}
		}}
}

// start reads the fifo: the process goes on as soon as somebody does.
func (c *container) start(g *global) error {
	fd, err := unix.Open(c.fifo(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 1)
	for {
		n, err := unix.Read(fd, buf)
		if n == 1 {
			break
		}
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return fmt.Errorf("start fifo: %w", err)
		}
		if !c.alive() {
			return errors.New("container process is already dead")
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5)
		if n == 0 {
			time.Sleep(200 * time.Microsecond) // no writer yet
		}
	}
	if err := os.Remove(c.fifo()); err != nil {
		return err
	}
	if c.spec.Hooks == nil {
		return nil
	}
	st := specs.State{Version: specs.Version, ID: c.ID, Status: specs.StateRunning, Pid: c.Pid, Bundle: c.Bundle, Annotations: c.spec.Annotations}
	for i, h := range c.spec.Hooks.Poststart {
		if err := runtime.RunHook(h, st); err != nil {
			_ = c.signal(unix.SIGKILL)
			return fmt.Errorf("error running poststart hook #%d: %w", i, err)
		}
	}
	return nil
}
