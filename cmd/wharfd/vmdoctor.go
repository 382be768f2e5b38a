package main

import (
	"context"
	"path/filepath"
	"time"

	"wharf/internal/config"
	"wharf/internal/driver/qemu"
	"wharf/internal/driver/qemu/accel"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/host"
)

// vmReport is the doctor's part about virtual machines: which programs,
// which kernel, which accelerator, and why. Nobody needs them who never says
// --isolation vm, so that nothing of it makes a machine unfit.
func vmReport(ctx context.Context, c *config.Config) []host.Item {
	const name = "virtual machines"
	if !c.VM {
		if why := noMachines(c); why != "" {
			return []host.Item{{Name: name, State: host.Missing, Optional: true, Detail: why, Cost: "no --isolation vm"}}
		}
		return []host.Item{{Name: name, State: host.Missing, Optional: true, Detail: "switched off (vm: false)", Cost: "no --isolation vm"}}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return []host.Item{
		found("qemu", "no --isolation vm")(qemu.QEMU(c.VMQemu)),
		found("virtiofsd", "no volumes or binds with --isolation vm")(qemu.Virtiofsd(c.VMVirtiofsd)),
		vmKernel(c),
		vmAccelerator(ctx, c),
	}
}

// found reports a program that was looked for; the error names the remedy.
func found(name, cost string) func(string, error) host.Item {
	return func(at string, err error) host.Item {
		if err != nil {
			return host.Item{Name: name, State: host.Missing, Optional: true, Cost: cost, Remedy: err.Error()}
		}
		return host.Item{Name: name, State: host.OK, Optional: true, Detail: at}
	}
}

func vmKernel(c *config.Config) host.Item {
	i := host.Item{Name: "vm kernel", State: host.OK, Optional: true}
	k, err := boot.New(bootOptions(c)).Kernel()
	if err != nil {
		i.State, i.Cost, i.Remedy = host.Missing, "no --isolation vm", err.Error()
		return i
	}
	i.Detail = k.Path + " (" + k.Why + ")"
	if k.Modules != "" {
		i.Detail += ", modules of " + k.Modules
	}
	return i
}

func vmAccelerator(ctx context.Context, c *config.Config) host.Item {
	i := host.Item{Name: "vm accelerator", State: host.OK, Optional: true}
	p, err := accel.New(accelOptions(c))
	var how, why string
	if err == nil {
		how, why, err = p.Accel(ctx)
	}
	switch {
	case err != nil:
		i.State, i.Cost, i.Remedy = host.Missing, "no --isolation vm", err.Error()
	case how == accel.TCG:
		i.State, i.Detail, i.Cost = host.Limited, "emulation (tcg): "+why, "virtual machines start in seconds and compute slowly"
		if c.VMAccelerator != accel.OnlyEmule {
			i.Remedy = "give this machine /dev/kvm, or vm-accelerator: kvm to refuse machines instead"
		}
	default:
		i.Detail = how + ": " + why
	}
	return i
}

func bootOptions(c *config.Config) boot.Options {
	return boot.Options{Dir: filepath.Join(c.DataRoot, "vm", "boot"), Agent: c.VMGuest, Kernel: c.VMKernel, Modules: c.VMModules}
}
