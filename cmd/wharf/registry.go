package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// registryServer is the program that serves: the registry's libraries are
// large, and neither the CLI nor the engine has them.
const registryServer = "wharf-registry"

func registryCommand(dockerCLI command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Serve an image registry from a directory",
		Long: `Serve an image registry from a directory.

Any client of the OCI distribution specification pushes to it and pulls from it. It needs no daemon.`,
		Args: cli.NoArgs,
		RunE: command.ShowHelp(dockerCLI.Err()),
	}
	cmd.AddCommand(registryServe(dockerCLI), registryStop(dockerCLI), registryStatus(dockerCLI), registryGC(dockerCLI))
	return cmd
}

// registryPlace is where one managed registry keeps its things.
type registryPlace struct{ dir string }

var registryName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// placeOf is a registry's directory: of the machine for root, of the user
// otherwise.
func placeOf(name string) (registryPlace, error) {
	if !registryName.MatchString(name) {
		return registryPlace{}, fmt.Errorf("registry name %q: letters, digits, '_', '.' and '-' only", name)
	}
	base := "/var/lib/wharf-registry"
	if d := os.Getenv("WHARF_REGISTRY_DIR"); d != "" {
		base = d
	} else if os.Geteuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return registryPlace{}, err
		}
		base = filepath.Join(home, ".local/state/wharf-registry")
		if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
			base = filepath.Join(d, "wharf-registry")
		}
	}
	return registryPlace{filepath.Join(base, name)}, nil
}

func (p registryPlace) file(name string) string { return filepath.Join(p.dir, name) }

// running is the process that serves, or 0. A pid that went to another
// program since is none.
func (p registryPlace) running() int {
	b, err := os.ReadFile(p.file("pid"))
	if err != nil {
		return 0
	}
	pid, start := 0, ""
	if n, _ := fmt.Sscan(string(b), &pid, &start); n != 2 || pid <= 0 || startTime(pid) != start {
		return 0
	}
	return pid
}

// startTime is when a process was started, in ticks since boot (proc(5)); ""
// when there is none.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func (p registryPlace) address() string {
	b, _ := os.ReadFile(p.file("address"))
	return strings.TrimSpace(string(b))
}

// serverPath finds wharf-registry: beside us, then on PATH.
func serverPath() (string, error) {
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), registryServer); unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath(registryServer)
	if err != nil {
		return "", errors.New("the program wharf-registry is neither beside wharf nor on PATH; install it, or run it in a container (docs/shipping.md)")
	}
	return p, nil
}

// passed are the options of `serve` that go to the program as they are.
var passed = []struct{ name, usage string }{
	{"addr", "Where to listen; port 0 picks one"},
	{"htpasswd", "File with the users (bcrypt lines)"},
	{"tls-cert", "TLS certificate (PEM file)"},
	{"tls-key", "Its key (PEM file)"},
	{"client-ca", "Let in only clients with a certificate of this authority (PEM file)"},
}

func registryServe(dockerCLI command.Cli) *cobra.Command {
	var detach, readOnly, open bool
	var name, storage string
	cmd := &cobra.Command{
		Use:   "serve [OPTIONS]",
		Short: "Serve a registry until it is interrupted, or in the background",
		Long: `Serve a registry until it is interrupted, or with --detach in the background.

It listens on loopback unless --addr says otherwise; beyond loopback it wants TLS and users, or --open.
With --detach: "wharf registry status" shows it, "wharf registry stop" ends it; its log is in its directory.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := placeOf(name)
			if err != nil {
				return err
			}
			if storage == "" {
				storage = p.file("data")
			}
			args, err := serveArgs(cmd, storage, readOnly, open)
			if err != nil {
				return err
			}
			if detach {
				return p.detach(cmd.Context(), dockerCLI.Out(), name, args)
			}
			server, err := serverPath()
			if err != nil {
				return err
			}
			return syscall.Exec(server, append([]string{server}, args...), os.Environ())
		},
		DisableFlagsInUseLine: true,
	}
	f := cmd.Flags()
	for _, o := range passed {
		f.String(o.name, "", o.usage)
	}
	f.Lookup("addr").DefValue = "127.0.0.1:5000"
	f.BoolVar(&readOnly, "read-only", false, "Pulls only")
	f.BoolVar(&open, "open", false, "Listen beyond loopback also without TLS or users")
	f.BoolVarP(&detach, "detach", "d", false, "Serve in the background")
	f.StringVar(&name, "name", "default", "Which of several registries")
	f.StringVar(&storage, "storage", "", "Directory of the content (default: its own directory)")
	return cmd
}

// serveArgs is the program's command line, with absolute paths.
func serveArgs(cmd *cobra.Command, storage string, readOnly, open bool) ([]string, error) {
	abs, err := filepath.Abs(storage)
	if err != nil {
		return nil, err
	}
	args := []string{"serve", "--storage", abs}
	for _, o := range passed {
		v, err := cmd.Flags().GetString(o.name)
		if err != nil {
			return nil, err
		}
		if v == "" {
			continue
		}
		if o.name != "addr" {
			if v, err = filepath.Abs(v); err != nil {
				return nil, err
			}
		}
		args = append(args, "--"+o.name, v)
	}
	if readOnly {
		args = append(args, "--read-only")
	}
	if open {
		args = append(args, "--open")
	}
	return args, nil
}

// detach starts the program in the background and waits until it listens.
func (p registryPlace) detach(ctx context.Context, out io.Writer, name string, args []string) error {
	if pid := p.running(); pid != 0 {
		return fmt.Errorf("registry %s serves at %s already (process %d); stop it first: wharf registry stop %s", name, p.address(), pid, name)
	}
	server, err := serverPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	_ = os.Remove(p.file("address"))
	c := exec.Command(server, append(args, "--address-file", p.file("address"))...) //nolint:gosec // our own program
	c.Dir, c.Stdout, c.Stderr = "/", log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	record := fmt.Sprintf("%d %s\n", c.Process.Pid, startTime(c.Process.Pid))
	if err := os.WriteFile(p.file("pid"), []byte(record), 0o600); err != nil {
		return errors.Join(err, c.Process.Kill())
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		if a := p.address(); a != "" {
			fmt.Fprintln(out, a)
			return nil
		}
		select {
		case err := <-ended:
			return p.lastWords(name, from, err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), c.Process.Kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords is why a program ended that has just been started.
func (p registryPlace) lastWords(name string, from int64, ended error) error {
	f, err := os.Open(p.file("log"))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.NewSectionReader(f, from, 4096))
	text := strings.TrimSpace(string(b))
	if text == "" && ended != nil {
		text = ended.Error()
	}
	return errors.Join(err, fmt.Errorf("registry %s does not start: %s", name, text))
}

func registryStop(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "stop [NAME]",
		Short: "End a registry that serves in the background; its content stays",
		Args:  cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := firstOr(args, "default")
			p, err := placeOf(name)
			if err != nil {
				return err
			}
			pid := p.running()
			if pid == 0 {
				return fmt.Errorf("registry %s does not serve in the background", name)
			}
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
			for end := time.Now().Add(20 * time.Second); p.running() != 0; time.Sleep(20 * time.Millisecond) {
				if cmd.Context().Err() != nil {
					return cmd.Context().Err()
				}
				if time.Now().After(end) {
					return fmt.Errorf("registry %s (process %d) does not end; see %s", name, pid, p.file("log"))
				}
			}
			fmt.Fprintln(dockerCLI.Out(), name)
			return errors.Join(os.Remove(p.file("pid")), os.RemoveAll(p.file("address")))
		},
		DisableFlagsInUseLine: true,
	}
}

func firstOr(args []string, s string) string {
	if len(args) > 0 {
		return args[0]
	}
	return s
}

func registryStatus(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the registries of this directory and whether they serve",
		Args:  cli.RequiresMaxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := placeOf(firstOr(args, "default"))
			if err != nil {
				return err
			}
			names := args
			if len(args) == 0 {
				es, err := os.ReadDir(filepath.Dir(p.dir))
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				for _, e := range es {
					if e.IsDir() {
						names = append(names, e.Name())
					}
				}
			}
			fmt.Fprintf(dockerCLI.Out(), "%-16s %-8s %-24s %s\n", "NAME", "PID", "ADDRESS", "DIRECTORY")
			for _, n := range names {
				p := registryPlace{filepath.Join(filepath.Dir(p.dir), n)}
				pid, addr := "-", "not serving"
				if r := p.running(); r != 0 {
					pid, addr = fmt.Sprint(r), p.address()
				}
				fmt.Fprintf(dockerCLI.Out(), "%-16s %-8s %-24s %s\n", n, pid, addr, p.dir)
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
}

func registryGC(dockerCLI command.Cli) *cobra.Command {
	var storage string
	var dry, untagged bool
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "gc [OPTIONS] [NAME]",
		Short: "Remove content that no image needs",
		Long: `Remove content that no image of the registry needs. It may serve meanwhile: pushes wait.

What is younger than --grace stays, since it may belong to a push whose end is still to come.`,
		Args: cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := placeOf(firstOr(args, "default"))
			if err != nil {
				return err
			}
			if storage == "" {
				storage = p.file("data")
			}
			server, err := serverPath()
			if err != nil {
				return err
			}
			c := exec.CommandContext(cmd.Context(), server, "gc", "--storage", storage, //nolint:gosec // our own program
				fmt.Sprintf("--dry-run=%t", dry), fmt.Sprintf("--untagged=%t", untagged), "--grace", grace.String())
			c.Stdout, c.Stderr = dockerCLI.Out(), dockerCLI.Err()
			if err := c.Run(); err != nil {
				return cli.StatusError{StatusCode: 1} // the program has said why
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	f := cmd.Flags()
	f.StringVar(&storage, "storage", "", "Directory of the content (default: that of NAME)")
	f.BoolVar(&dry, "dry-run", false, "Say what would go, remove nothing")
	f.BoolVar(&untagged, "untagged", false, "Also images without a tag")
	f.DurationVar(&grace, "grace", time.Hour, "Keep what is younger")
	return cmd
}
