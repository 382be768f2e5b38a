package main

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wharf/internal/config"
	"wharf/internal/driver"
	"wharf/internal/driver/qemu"
	"wharf/internal/driver/qemu/accel"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// noMachines says why this host cannot have any; "" when it may.
func noMachines(c *config.Config) string {
	if runtime.GOARCH != "amd64" {
		return "virtual machines need an amd64 host, and this one is " + runtime.GOARCH
	}
	if _, err := os.Stat(c.VMHolder); errors.Is(err, os.ErrNotExist) {
		return "wharf-vmm is not installed (" + c.VMHolder + ")"
	}
	return ""
}

// openMachines makes the driver of virtual machines; nil without one. What it
// needs of the host (QEMU, a kernel) is looked for at the first start.
func openMachines(c *config.Config) (*qemu.Driver, error) {
	if !c.VM {
		return nil, nil
	}
	if why := noMachines(c); why != "" {
		slog.Info("no virtual machines: " + why)
		c.VM = false
		return nil, nil
	}
	p, err := accel.New(accelOptions(c))
	if err != nil {
		return nil, err
	}
	var host unix.Sysinfo_t
	_ = unix.Sysinfo(&host)                                                                  // never fails
	pressure, err := config.ParseBalloon(c.VMBalloon, int64(host.Totalram)*int64(host.Unit)) //nolint:unconvert // not everywhere the same type
	if err != nil {
		return nil, err
	}
	bootTime, err := c.BootTime()
	if err != nil {
		return nil, err
	}
	return qemu.New(qemu.Options{
		Pressure: pressure, BootTime: bootTime,
		VMM: c.VMHolder, QEMU: c.VMQemu, Virtiofsd: c.VMVirtiofsd,
		ExecRoot: c.ExecRoot, CgroupParent: strings.TrimPrefix(c.CgroupParent, "/"),
		Boot:  boot.New(bootOptions(c)),
		Accel: p.Accel, KVM: p,
		Memory: int64(c.VMMemory), IDs: machineIDs(c), Debug: c.VMDebug, NoTemplates: !c.VMTemplates,
	})
}

// machineIDs is the range of machines that have none of their own.
func machineIDs(c *config.Config) model.IDRange {
	return model.IDRange{Host: c.IDBase, Size: 65536}
}

// ready is how many machines are kept ready. They are clones.
func ready(c *config.Config) int {
	if !c.VMTemplates {
		return 0
	}
	return c.VMReady
}

// accelOptions say how KVM is tried: where machines are given more time to come
// up, the test of it has more time as well.
func accelOptions(c *config.Config) accel.Options {
	const usual = 30 * time.Second // with KVM
	o := accel.Options{Mode: c.VMAccelerator, Helper: c.VMHolder, Dir: c.ExecRoot}
	if t, err := c.BootTime(); err == nil {
		o.Slower = float64(t) / float64(usual)
	}
	return o
}

// deadline is how long a verb may take once it has begun; 0 is the usual time. A
// machine that may take longer than that to come up is waited for.
func deadline(c *config.Config) time.Duration {
	const usual, beside = 2 * time.Minute, 10 * time.Second
	t, err := c.BootTime()
	if err != nil || t+beside <= usual {
		return 0
	}
	return t + beside
}

func drivers(containers driver.Driver, vms *qemu.Driver) map[model.Isolation]driver.Driver {
	all := map[model.Isolation]driver.Driver{model.IsolationContainer: containers}
	if vms != nil {
		all[model.IsolationVM] = vms
	}
	return all
}

// wantsMachines says whether images are likely to be started as machines.
func wantsMachines(c *config.Config) bool {
	if !c.VM || noMachines(c) != "" {
		return false
	}
	usual := model.Isolation(c.DefaultIsolation) == model.IsolationVM
	return usual || slices.ContainsFunc(isolationRules(c), func(r plan.IsolationRule) bool { return r.Isolation == model.IsolationVM })
}

// isolationRules is the configuration's isolation-policy, checked there.
func isolationRules(c *config.Config) (out []plan.IsolationRule) {
	for _, p := range c.IsolationPolicy {
		iso, label, network, err := config.ParsePolicy(p)
		if err == nil {
			out = append(out, plan.IsolationRule{Isolation: model.Isolation(iso), Label: label, Network: network})
		}
	}
	return out
}
