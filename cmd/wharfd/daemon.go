package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"wharf/internal/config"
	"wharf/internal/dockerapi"
	"wharf/internal/undo"
)

// daemon is the process.
type daemon struct {
	cfg   *config.Config // as at start; what can be changed later is in live
	args  []string
	level *slog.LevelVar
	live  atomic.Pointer[config.Config]

	rooms *rooms
}

// run serves until a signal ends it.
func (d *daemon) run(ctx context.Context) (err error) {
	d.live.Store(d.cfg)
	for _, n := range d.cfg.Notes {
		slog.Warn(n)
	}
	if os.Geteuid() != 0 {
		return errors.New("wharfd has to be started as root")
	}
	var held undo.Stack
	defer func() { err = errors.Join(err, held.Run()) }()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE)

	if err := d.claim(&held); err != nil {
		return err
	}
	listeners, err := listen(d.cfg, &held)
	if err != nil {
		return err
	}
	setProxies(d.cfg)
	if err := useTemp(d.cfg.DataRoot); err != nil {
		return err
	}
	begin := time.Now()
	if d.rooms, err = openRooms(ctx, d.cfg, &d.live, &held); err != nil {
		return err
	}
	if err := d.rooms.engine.Recover(ctx); err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	d.rooms.volumes.LeftPaused(func(id string) { _ = d.rooms.engine.Unpause(ctx, id) }) // gone, or not paused: fine
	d.rooms.loadBase(ctx, d.cfg)
	d.rooms.images.SetAutoRemoval(autoRemoval(d.cfg))

	srv := dockerapi.NewServer(d.rooms.handler())
	failed := d.serve(srv, listeners)
	slog.Info("wharfd is ready", "version", release(), "hosts", d.cfg.Hosts, "after", time.Since(begin).Round(time.Millisecond))
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)

	err = d.await(ctx, signals, failed)
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	d.drain(srv, signals)
	return err
}

// serve answers on every listener. The channel gets the first failure.
func (d *daemon) serve(srv *http.Server, listeners []net.Listener) <-chan error {
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		}()
	}
	return failed
}

// await returns when the daemon shall end.
func (d *daemon) await(ctx context.Context, signals <-chan os.Signal, failed <-chan error) error {
	for {
		select {
		case err := <-failed:
			return err
		case s := <-signals:
			if s == syscall.SIGHUP {
				d.reload(ctx)
				continue
			}
			slog.Info("wharfd ends; containers live on", "signal", s.String())
			return nil
		}
	}
}

// drain lets requests end, up to the deadline or another signal. Those that
// only show something are cut at once; clients take them up again.
func (d *daemon) drain(srv *http.Server, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(d.cfg.ShutdownTimeout)*time.Second)
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	d.rooms.closing()
	if err := srv.Shutdown(ctx); err != nil {
		slog.Warn("requests did not end in time and are cut", "after", time.Duration(d.cfg.ShutdownTimeout)*time.Second)
		d.rooms.cut()
		_ = srv.Close()
	}
}

// claim makes the directories and takes the data root for this process.
func (d *daemon) claim(held *undo.Stack) error {
	for _, dir := range []string{d.cfg.DataRoot, d.cfg.ExecRoot} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		// Containers get at what is theirs by descriptor, never by path.
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{d.cfg.DataRoot, d.cfg.ExecRoot} {
		f, err := os.OpenFile(filepath.Join(dir, "wharfd.lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		held.Push(f.Close)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("another wharfd%s uses %s; end it first, or give this one another --data-root and --exec-root", owner(f), dir)
		}
		// Who has it is for people: a full disk is no reason not to start.
		_ = f.Truncate(0)
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return d.pidfile(held)
}

// owner reads who holds a lock file.
func owner(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(string(trimNewline(b[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}

// pidfile writes the process id. Whose daemon runs is decided by the locks;
// a stale file is overwritten.
func (d *daemon) pidfile(held *undo.Stack) error {
	if d.cfg.Pidfile == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(d.cfg.Pidfile), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(d.cfg.Pidfile, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("pidfile: %w", err)
	}
	held.Push(func() error { return os.Remove(d.cfg.Pidfile) })
	return nil
}

// setProxies tells the registry client, which asks the environment.
func setProxies(c *config.Config) {
	for _, p := range []struct{ name, value string }{
		{"HTTP_PROXY", c.HTTPProxy}, {"HTTPS_PROXY", c.HTTPSProxy}, {"NO_PROXY", c.NoProxy},
	} {
		if p.value != "" {
			_ = os.Setenv(p.name, p.value)
		}
	}
}
