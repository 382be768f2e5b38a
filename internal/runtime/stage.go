package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"wharf/internal/lean"
)

// stageName is argv[0] of the stage, and how it knows what it is.
const stageName = "wharf-stage"

func isStage() bool { return len(os.Args) == 2 && os.Args[0] == stageName }

// The stage changes credentials, namespaces and seccomp of one thread, the
// one that calls execve: the main one, so that it has to be locked before
// main.
func init() {
	if isStage() {
		runtime.LockOSThread()
	}
}

// Main is the init and exec stages. Every program that calls Create or Exec
// calls it first in main. It returns at once in any other process.
func Main() {
	if isInit() {
		initMain()
	}
	if !isStage() {
		return
	}
	// From here on a process of the container must not be able to trace us or
	// to look into our descriptors.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	sock, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	unix.CloseOnExec(sock)
	s := &stage{sock: sock, root: -1, proc: -1, fifo: -1}
	s.trace.add("stage runs")
	err = s.run()
	if sendFrame(s.sock, frameError, encodeError(err)) != nil {
		// Nobody listens any more (a detached container): say it on stderr.
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
	}
	code := 1
	var e *ExecError
	if errors.As(err, &e) {
		code = e.Code
	}
	os.Exit(code)
}

// stage is the process between clone and execve of the image's program.
type stage struct {
	Stage
	sock     int
	root     int // the root mount (O_PATH)
	fifo     int
	extra    []int
	mounts   []int
	proc     int // a procfs of our own, attached nowhere; nothing can be hidden in it
	warnings []string
	trace    Trace
	user     identity
	program  string
	console  int // slave, when Terminal
	master   int
}

func (s *stage) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

func (s *stage) run() error {
	if err := s.receive(); err != nil {
		return err
	}
	s.trace.add("stage knows its task")
	if s.Exec {
		if err := errors.Join(s.openProc(), s.joinRoot()); err != nil {
			return err
		}
	} else if err := s.setup(); err != nil {
		return err
	}
	s.trace.add("root is made")
	if err := s.process(); err != nil {
		return err
	}
	if err := s.streams(); err != nil {
		return err
	}
	s.letGo()
	if err := s.ready(); err != nil {
		return err
	}
	return s.execute()
}

// receive reads the configuration.
func (s *stage) receive() error {
	kind, payload, _, err := recvFrame(s.sock)
	if err != nil || kind != frameConfig || len(payload) < 4 {
		return fmt.Errorf("no configuration (%q): %w", kind, err)
	}
	n := int(binary.LittleEndian.Uint32(payload))
	if n < 3 || len(payload) < 4+4*n {
		return errors.New("configuration is cut off")
	}
	table := make([]int, n)
	for i := range table {
		table[i] = int(int32(binary.LittleEndian.Uint32(payload[4+4*i:])))
		if i != 2 && table[i] >= 0 {
			unix.CloseOnExec(table[i])
		}
	}
	s.root, s.fifo = table[0], table[1]
	s.extra = table[3 : 3+table[2]]
	s.mounts = table[3+table[2]:]
	if err := lean.Unmarshal(payload[4+4*n:], &s.Stage); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

func (s *stage) expect(want byte) error {
	kind, _, fds, err := recvFrame(s.sock)
	closeAll(fds)
	if err != nil {
		// The caller is gone or gave up. There is nobody to tell.
		os.Exit(1)
	}
	if kind != want {
		return fmt.Errorf("message %q instead of %q", kind, want)
	}
	return nil
}

// setup makes the container: mounts, root, names.
func (s *stage) setup() error {
	if err := s.openProc(); err != nil {
		return err
	}
	if err := s.enterRootMount(); err != nil {
		return err
	}
	for i := range s.Mounts {
		if err := s.mount(&s.Mounts[i]); err != nil {
			return fmt.Errorf("mount %s: %w", s.Mounts[i].Dest, err)
		}
	}
	if err := s.devices(); err != nil {
		return err
	}
	s.trace.add("mounts are made")
	if err := s.createHooks(); err != nil {
		return err
	}
	if err := s.pivot(); err != nil {
		return err
	}
	s.trace.add("root is entered")
	if s.Terminal {
		if err := s.openConsole(); err != nil {
			return err
		}
		if err := s.bindConsole(); err != nil {
			return err
		}
	}
	return s.names()
}

// letGo closes what only the setup needed, before a wait that may be long.
func (s *stage) letGo() {
	for _, fd := range s.mounts {
		if fd != s.root {
			_ = unix.Close(fd)
		}
	}
	s.mounts = nil
}

func (s *stage) createHooks() error {
	if s.Hooks {
		if err := sendFrame(s.sock, frameHooks, nil); err != nil {
			return err
		}
		if err := s.expect(frameHooks); err != nil {
			return err
		}
	}
	if len(s.CreateHooks) > 0 {
		if err := unix.Fchdir(s.root); err != nil { // where runc's hooks find themselves
			return err
		}
		return runHooks("createContainer", s.CreateHooks, *s.HookState)
	}
	return nil
}

// names sets host name, domain name and sysctls, and covers paths.
func (s *stage) names() error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("host name %q: %w", s.Hostname, err)
		}
	}
	if s.Domainname != "" {
		if err := unix.Setdomainname([]byte(s.Domainname)); err != nil {
			return fmt.Errorf("domain name %q: %w", s.Domainname, err)
		}
	}
	for _, kv := range s.Sysctl {
		if err := s.writeProc("sys/"+kv[0], kv[1]); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", kv[0], kv[1], err)
		}
	}
	return s.cover()
}

// ready reports and waits for the word to go.
func (s *stage) ready() error {
	s.trace.add("process is set up")
	if s.fifo >= 0 && s.Seccomp != nil && s.Seccomp.Notify {
		// Who waits at the fifo has nobody left to give the listener to.
		if err := s.seccompEarly(); err != nil {
			return err
		}
	}
	reply, err := lean.Marshal(readyReply{UID: s.user.uid, Warnings: s.warnings, Trace: s.trace})
	if err != nil {
		return err
	}
	var fds []int
	if s.Terminal {
		fds = []int{s.master}
	}
	if err := sendFrame(s.sock, frameReady, reply, fds...); err != nil {
		return err
	}
	if s.Terminal {
		_ = unix.Close(s.master)
	}
	if s.fifo >= 0 {
		// Nobody listens from here on: errors go to standard error.
		_ = unix.Close(s.sock)
		s.sock = -1
		return s.waitFifo()
	}
	if err := s.expect(frameExec); err != nil {
		return err
	}
	return nil
}

// waitFifo blocks until somebody reads the fifo: "start" of an OCI runtime.
func (s *stage) waitFifo() error {
	fd, err := s.openProcAt("self/fd/"+strconv.Itoa(s.fifo), unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("open start fifo: %w", err)
	}
	_, err = unix.Write(fd, []byte{0})
	_ = unix.Close(fd)
	_ = unix.Close(s.fifo)
	return err
}
