package accel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The accelerators, by QEMU's names.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// The modes of the configuration (vm-accelerator).
const (
	Auto      = "auto" // KVM where it works, else emulation with a warning
	OnlyKVM   = KVM    // no fall-back: starting a machine fails where KVM does not work
	OnlyEmule = TCG
)

// What the self-test may take: some milliseconds of a processor are due. A host
// that is busy gives it none for longer than that, so that only a test that
// gets nowhere in patience, or that used up its share, has failed.
const (
	testTime = 500 * time.Millisecond // of a processor
	patience = 5 * time.Second
)

// Options say what to test and where to remember it.
type Options struct {
	Mode   string // Auto ("" too), OnlyKVM or OnlyEmule
	Helper string // a program of ours whose main calls Main: wharf-vmm
	Dir    string // below the exec root
	// Slower is how many times longer than usual the test may take: a host on
	// which machines are given more time to come up.
	Slower float64
}

// Prober finds out once and remembers.
type Prober struct {
	o        Options
	device   string
	testTime time.Duration // see the constants
	patience time.Duration

	mu    sync.Mutex
	known *outcome
}

// outcome is accel.json.
type outcome struct {
	Boot   string `json:"boot"`   // /proc/sys/kernel/random/boot_id
	Device string `json:"device"` // what /dev/kvm looked like
	Limit  string `json:"limit"`  // of the test
	Works  bool   `json:"works"`
	Why    string `json:"why"`
	Proven bool   `json:"proven,omitempty"` // a machine has come up on it
}

// New returns a prober. Nothing is tested before Accel.
func New(o Options) (*Prober, error) {
	switch o.Mode {
	case "", Auto, OnlyKVM, OnlyEmule:
		slower := max(o.Slower, 1)
		return &Prober{o: o, device: "/dev/kvm", testTime: time.Duration(slower * float64(testTime)), patience: time.Duration(slower * float64(patience))}, nil
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("vm-accelerator %q: it has to be auto, kvm or tcg", o.Mode))
}

// Accel returns KVM or TCG, and why, for a person. errdefs.ErrUnavailable:
// only KVM is allowed and it does not work here.
func (p *Prober) Accel(ctx context.Context) (accel, why string, err error) {
	if p.o.Mode == OnlyEmule {
		return TCG, "configured (vm-accelerator: tcg)", nil
	}
	r, err := p.outcome(ctx)
	if err != nil {
		return "", "", err
	}
	if r.Works {
		return KVM, r.Why, nil
	}
	if p.o.Mode == OnlyKVM {
		return "", "", errdefs.ErrUnavailable.WithMessage("virtual machines are to run on KVM alone (vm-accelerator: kvm), which does not work here: " + r.Why)
	}
	return TCG, r.Why + "; machines are emulated, ten times slower and more", nil
}

// Proven says that a machine has come up on KVM.
func (p *Prober) Proven() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || !p.known.Works || p.known.Proven {
		return
	}
	next := *p.known
	next.Proven = true
	_ = p.write(&next)
	p.known = &next
}

// Failed says that a machine did not come up on KVM, and why. When none has
// before, and emulation is allowed, KVM does not work from now on, for this
// boot of the host: a test guest is not a whole kernel. Then, and for those
// that started beside it, true: the machine is to be tried again, emulated.
func (p *Prober) Failed(why string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.o.Mode == OnlyKVM || p.known == nil || p.known.Proven {
		return false
	}
	if !p.known.Works {
		return true
	}
	next := *p.known
	next.Works, next.Why = false, "a test guest ran on KVM, and the first machine did not come up on it: "+why
	_ = p.write(&next)
	p.known = &next
	return true
}

func (p *Prober) outcome(ctx context.Context) (*outcome, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil {
		return p.known, nil
	}
	now := outcome{Boot: bootID(), Device: look(p.device), Limit: p.testTime.String()}
	if old := p.read(); old != nil && old.Boot == now.Boot && old.Device == now.Device && old.Limit == now.Limit && now.Boot != "" {
		p.known = old
		return old, nil
	}
	now.Works, now.Why = p.test(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err // says nothing about the machine
	}
	_ = p.write(&now) // else the next one tests again: half a second (wharfd doctor, not as root)
	p.known = &now
	return p.known, nil
}

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// look is what tells one /dev/kvm from another: it may be passed in later, or
// its module be loaded anew.
func look(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "none"
	}
	return fmt.Sprintf("%x %o %d", st.Rdev, st.Mode, st.Ino)
}

func (p *Prober) file() string { return filepath.Join(p.o.Dir, "accel.json") }

func (p *Prober) read() *outcome {
	data, err := os.ReadFile(p.file())
	o := new(outcome)
	if err != nil || json.Unmarshal(data, o) != nil {
		return nil
	}
	return o
}

func (p *Prober) write(o *outcome) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.o.Dir, 0o700); err != nil {
		return err
	}
	tmp := p.file() + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.file())
}

// test runs the self-test in a child.
func (p *Prober) test(ctx context.Context) (works bool, why string) {
	f, err := os.OpenFile(p.device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, "there is no " + p.device + " (no virtualization in this machine's CPU or hypervisor, or the kvm module is not loaded)"
	case err != nil:
		return false, fmt.Sprintf("%v", err)
	}
	defer f.Close()
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: p.o.Helper, Args: []string{helperName}, Env: []string{"GOMAXPROCS=1"}, ExtraFiles: []*os.File{f}, Stdout: &out, Stderr: &out}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return false, fmt.Sprintf("test of KVM: %v", err)
	}
	var ended error // set when done is closed
	done := make(chan struct{})
	go func() { ended = cmd.Wait(); close(done) }()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for limit := time.NewTimer(p.patience); ; {
		select {
		case <-done:
			return verdict(ended, out.String(), time.Since(began))
		case <-look.C:
			if used(cmd.Process.Pid) < p.testTime {
				continue
			}
		case <-ctx.Done():
		case <-limit.C:
		}
		break
	}
	_ = cmd.Process.Kill()
	why = fmt.Sprintf("%s opens but a test guest did not come to its end in %v (nested virtualization that interprets each instruction, or hangs)",
		p.device, time.Since(began).Round(10*time.Millisecond))
	select {
	case <-done:
	case <-time.After(p.testTime):
		why += " and cannot be ended: the kernel hangs in it"
	}
	return false, why
}

// used is the processor time that a child has had (proc_pid_stat(5); a tick is
// 10 ms on Linux).
func used(pid int) time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func verdict(err error, said string, took time.Duration) (bool, string) {
	said = strings.TrimSpace(said)
	switch {
	case err != nil && said != "":
		return false, "KVM does not run a test guest: " + said
	case err != nil:
		return false, "KVM does not run a test guest: " + err.Error()
	case said != passed:
		return false, fmt.Sprintf("test of KVM: the helper said %q", said)
	}
	return true, fmt.Sprintf("KVM ran a test guest in %v", took.Round(time.Millisecond))
}
