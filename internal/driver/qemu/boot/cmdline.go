package boot

import (
	"strconv"
	"strings"
)

// Line is what the kernel's command line depends on.
type Line struct {
	// TSCKHz is the host's TSC frequency, for emulation: the guest would
	// calibrate it against timers that jump under load, and hang. 0 with KVM.
	TSCKHz int
	Debug  bool // the kernel's messages on the console, not only its warnings
	PCI    bool // the machine has a PCI bus
	// Extra is appended as it is.
	Extra string
}

// emulated is for a kernel whose instructions are translated one after the
// other before they run for the first time: what a start runs through counts,
// more than how often. There is no processor whose speculation could be abused.
var emulated = []string{
	"tsc=reliable", // it is the host's: no watchdog that takes it away on a busy host, and leaves the guest without a clock
	"mitigations=off",
	"lsm=landlock,yama",
	"init_on_alloc=0",
	"nowatchdog",
	"randomize_kstack_offset=off",
}

// CommandLine is the kernel's command line.
func CommandLine(l Line) string {
	words := []string{
		"console=ttyS0",
		"8250.nr_uarts=1",
		"panic=-1",            // QEMU runs with -no-reboot: a panic ends the machine at once
		"reboot=t",            // triple fault: nothing to wait for
		"cryptomgr.notests",   // 0.2 s of self-tests
		"cgroup_no_v1=all",    // the agent mounts v2
		"random.trust_cpu=on", // the agent gets entropy from the host as well
		"no_timer_check",
		"noreplace-smp",
		"rcupdate.rcu_expedited=1", // boot only waits for grace periods
	}
	if !l.PCI {
		words = append(words, "pci=off")
	}
	if l.TSCKHz > 0 {
		words = append(words, "tsc_early_khz="+strconv.Itoa(l.TSCKHz))
		words = append(words, emulated...)
	}
	if l.Debug {
		words = append(words, "loglevel=7")
	} else {
		words = append(words, "quiet", "loglevel=4")
	}
	if l.Extra != "" {
		words = append(words, l.Extra)
	}
	return strings.Join(words, " ")
}
