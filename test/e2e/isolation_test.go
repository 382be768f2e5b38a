package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// onMachines is WHARF_E2E_ISOLATION=vm (make e2e-vm): every daemon's
// default-isolation is vm, so that the cases which were written for containers
// run in virtual machines, unchanged. Those in differing are skipped.
var onMachines = os.Getenv("WHARF_E2E_ISOLATION") == "vm"

// patient is how long to wait for what a container does in limit: a machine
// is emulated where there is no KVM.
func patient(limit time.Duration) time.Duration {
	if onMachines {
		return 20 * limit
	}
	return limit
}

// busy is the least that is given to what has to happen: the machine may be
// doing many other things.
const busy = time.Minute

// isolationFlags start a daemon whose containers are machines: none is large,
// so that many are there at once.
func isolationFlags() []string {
	if !onMachines {
		return nil
	}
	flags := []string{"--default-isolation", "vm", "--vm-memory", "160m"}
	// Two processors at a load of 45 have taken two minutes for an emulated boot.
	if t := os.Getenv("WHARF_E2E_BOOT_TIME"); t != "" {
		flags = append(flags, "--vm-boot-time", t)
	}
	return flags
}

// difference is why a case of containers says nothing of machines. row is the
// beginning of a line of the table "What differs" in docs/isolation.md;
// elsewhere: the case is about something that machines take no part in.
type difference struct{ row, why string }

const elsewhere = ""

// skipOnMachines ends a test here that cannot be on machines.
func skipOnMachines(t *testing.T) {
	t.Helper()
	if !onMachines {
		return
	}
	for name := t.Name(); ; {
		if d, ok := differing[name]; ok {
			if d.row == elsewhere {
				t.Skip("not about machines: " + d.why)
			}
			t.Skip("differs in a machine (" + d.row + "): " + d.why)
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return
		}
		name = name[:i]
	}
}

// TestDifferencesAreTold: what is skipped on machines stands in the table that
// people read.
func TestDifferencesAreTold(t *testing.T) {
	text, err := os.ReadFile("../../docs/isolation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## What differs\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for name, d := range differing {
		if d.why == "" {
			t.Errorf("%s is skipped without a reason", name)
		}
		told := slices.ContainsFunc(strings.Split(table, "\n"), func(line string) bool {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), " | ")
			return strings.Contains(cell, d.row)
		})
		if d.row != elsewhere && !told {
			t.Errorf("%s: docs/isolation.md has no row %q", name, d.row)
		}
	}
}

// differing are the cases, by name (of a test or a subtest), that are not run
// on machines.
var differing = map[string]difference{
	"TestRunNamespaces/pid_host":                {"--pid host", "refused"},
	"TestRunNamespaces/uts_host":                {"--uts host", "refused"},
	"TestRunNamespaces/uts_host_with_hostname":  {"--uts host", "refused, with another reason"},
	"TestRunNamespaces/ipc_host":                {"--ipc host", "refused"},
	"TestRunNamespaces/network_host":            {"--network host", "refused"},
	"TestRunSharedNamespaces":                   {"--pid container:", "refused"},
	"TestRunHostUser":                           {"ids", "the process of the host is the machine"},
	"TestRunLimits/cpus":                        {"--cpus", "the rest of a processor is taken from QEMU, not inside"},
	"TestRunLimits/cpu_shares":                  {"--cpus", "shares are QEMU's, not seen inside"},
	"TestRunSecurity/privileged":                {"--privileged", "no /dev/kmsg"},
	"TestRunSecurity/userns_host":               {"--userns host", "refused"},
	"TestRunSecurity/own_user_namespace":        {"ids", "the kernel is its own, and so are all of its ids"},
	"TestRunSecurity/device":                    {"--device", "refused"},
	"TestRunSecurity/device_under_another_name": {"--device", "refused"},
	"TestRunSecurity/missing_device":            {"--device", "refused, with another reason"},
	"TestCDI":                                   {"--device", "refused"},
	"TestMonitorKilled":                         {elsewhere, "kills wharf-monitor; TestMachineFaults kills what holds a machine"},
	"TestMonitorKilledIsRecorded":               {elsewhere, "kills wharf-monitor; TestMachineFaults kills what holds a machine"},
	"TestMachine":                               {elsewhere, "it runs in make test"},
	"TestMachineForeground":                     {elsewhere, "it runs in make test"},
	"TestMachineRefusals":                       {elsewhere, "it runs in make test"},
	"TestMachinePolicy":                         {elsewhere, "it runs in make test"},
	"TestMachineFaults":                         {elsewhere, "it runs in make test"},
	"TestMachineDies":                           {elsewhere, "it runs in make test"},
	"TestMachineFullDisk":                       {elsewhere, "it runs in make test"},
	"TestNetworksOfARunningContainer":           {"networks", "the name server is the gateway"},
	"TestDaemonDiesWhileNetworksChange":         {"networks", "asks the name server 127.0.0.11"},
	"TestFullDisk":                              {elsewhere, "a disk of 24 MB has no room for a kernel; TestMachineFullDisk"},
	"TestFiftyAtOnce":                           {elsewhere, "fifty emulated machines at once take longer than a start may; make bench starts eight"},
	"TestSoak":                                  {elsewhere, "random verbs in great number: hours when emulated"},
	"TestOpposites":                             {elsewhere, "random verbs in great number: hours when emulated"},
	"TestMachineRestart":                        {elsewhere, "ends wharf-monitor as the power does; TestMachineDies ends what holds a machine"},
	"TestPowerCut":                              {elsewhere, "about the record and the stores, a hundred starts"},
	"TestComposeExample":                        {elsewhere, "VM=1 test/example.sh is the example with its database in a machine"},
	"TestComposeDaemonKilled":                   {elsewhere, "the example, once more"},
	"TestComposeTwoUps":                         {elsewhere, "the example, once more"},
	"TestComposeInterrupted":                    {elsewhere, "the example, once more"},
	"TestInitQuickExit":                         {elsewhere, "a race of the monitor's, fifteen starts"},
	"TestInstall":                               {elsewhere, "of an installation, with its own configuration"},
	"TestImageMount":                            {"--userns host", "refused; TestMachineDisk mounts images"},
	"TestSeccompNotify":                         {"SCMP_ACT_NOTIFY", "refused"},
	"TestImagesOnFullDisk":                      {elsewhere, "a small disk has no room for a kernel; TestMachineFullDisk"},
	"TestImageGC":                               {elsewhere, "a small disk has no room for a kernel; of images only"},
	"TestTrashNearlyFullDisk":                   {elsewhere, "a small disk has no room for a kernel; of the trash only"},
	"TestMachineDisk":                           {elsewhere, "it runs in make test"},
	"TestMachineReady":                          {elsewhere, "it runs in make test"},
	"TestMachineSharesClone":                    {elsewhere, "it runs in make test"},
	"TestRunCommandAgain":                       {"--device", "refused"},
	"TestLimitsByLabel":                         {"networks", "NET_ADMIN does not shut limits out: they hold at the host's end of the tap"},
	"TestRenameUpdate":                          {"update --memory", "a running machine gets no more than it was started with"},
}
