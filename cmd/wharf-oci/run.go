package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
)

func runCommand(g *global) *cobra.Command {
	var o createOptions
	var detach, keep bool
	cmd := &cobra.Command{Use: "run ID", Short: "create and start a container", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, proc, err := g.create(args[0], &o, !detach)
			if err != nil {
				return err
			}
			return g.run(c, proc, o.consoleSocket, detach, keep)
		}}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait for the process")
	cmd.Flags().BoolVar(&keep, "keep", false, "do not delete the container after its end")
	return cmd
}

func (g *global) run(c *container, proc *runtime.Process, socket string, detach, keep bool) error {
	fail := func(err error) error {
		_ = proc.Close()
		return errors.Join(err, c.destroy(g))
	}
	if socket != "" {
		if err := c.handOver(proc, socket); err != nil {
			return fail(err)
		}
		proc.Console = nil
	}
	if proc.Console != nil {
		plainNewlines(proc.Console)
	}
	if err := c.start(g); err != nil {
		return fail(err)
	}
	if detach {
		proc.Detach()
		return nil
	}
	code, err := attend(proc)
	if !keep {
		err = errors.Join(err, c.destroy(g))
	}
	if err == nil && code != 0 {
		err = exitError(code)
	}
	return err
}

// attend passes signals and the terminal on until the process ends.
func attend(proc *runtime.Process) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	var copied chan struct{}
	if proc.Console != nil {
		restore := rawTerminal()
		defer restore()
		resize(proc.Console)
		copied = make(chan struct{})
		go func() { _, _ = io.Copy(proc.Console, os.Stdin) }()
		go func() { _, _ = io.Copy(os.Stdout, proc.Console); close(copied) }()
	}
	go func() {
		for s := range signals {
			switch s {
			case unix.SIGWINCH:
				if proc.Console != nil {
					resize(proc.Console)
				}
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
			default:
				_ = proc.Signal(s.(syscall.Signal))
			}
		}
	}()
	status, err := proc.Wait()
	if copied != nil {
		<-copied
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), err
	}
	return status.ExitStatus(), err
}

// rawTerminal makes our own terminal raw, if there is one.
func rawTerminal() (restore func()) {
	old, err := unix.IoctlGetTermios(0, unix.TCGETS) // output stays as it is: it makes the newlines
	if err != nil {
		return func() {}
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(0, unix.TCSETS, &raw)
	return func() { _ = unix.IoctlSetTermios(0, unix.TCSETS, old) }
}

// plainNewlines keeps the container's terminal from turning newlines into
// carriage return and newline: our own terminal does that.
func plainNewlines(console *os.File) {
	t, err := unix.IoctlGetTermios(int(console.Fd()), unix.TCGETS)
	if err != nil {
		return
	}
	t.Oflag &^= unix.ONLCR
	_ = unix.IoctlSetTermios(int(console.Fd()), unix.TCSETS, t)
}

func resize(console *os.File) {
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(console.Fd()), unix.TIOCSWINSZ, ws)
	}
}
