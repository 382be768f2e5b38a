package config

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// minVMMemory is what a kernel and the agent need to come up.
const minVMMemory = 96 << 20

// maxVMReady bounds how many are kept ready.
const maxVMReady = 16

func (c *Config) checkVM() error {
	if err := oneOf("default-isolation", c.DefaultIsolation, "container", "vm"); err != nil {
		return err
	}
	if err := oneOf("vm-accelerator", c.VMAccelerator, "auto", "kvm", "tcg"); err != nil {
		return err
	}
	if c.VMReady < 0 || c.VMReady > maxVMReady {
		return fmt.Errorf("invalid vm-ready %d: it is how many virtual machines are kept ready, 0 to %d; each has memory of its own", c.VMReady, maxVMReady)
	}
	if c.VMMemory < minVMMemory {
		return fmt.Errorf("invalid vm-memory %d: a virtual machine needs %d MiB or more", c.VMMemory, minVMMemory>>20)
	}
	if _, err := ParseBalloon(c.VMBalloon, 1<<40); err != nil {
		return err
	}
	if _, err := c.BootTime(); err != nil {
		return err
	}
	for _, p := range c.IsolationPolicy {
		if _, _, _, err := ParsePolicy(p); err != nil {
			return err
		}
	}
	if !c.VM && c.DefaultIsolation == "vm" {
		return fmt.Errorf("default-isolation is vm, and vm is off: they contradict each other")
	}
	for key, path := range map[string]string{"vm-kernel": c.VMKernel, "vm-modules": c.VMModules, "vm-qemu": c.VMQemu, "vm-virtiofsd": c.VMVirtiofsd} {
		if path == "" || !c.VM {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("invalid %s: %w", key, err)
		}
	}
	if c.VMHolder == "" {
		c.VMHolder = besides("wharf-vmm", "/usr/libexec/wharf/wharf-vmm")
	}
	if c.VMGuest == "" {
		c.VMGuest = besides("wharf-guest", "/usr/libexec/wharf/wharf-guest")
	}
	return nil
}

// BootTime is vm-boot-time, 0 for auto.
func (c *Config) BootTime() (time.Duration, error) {
	if c.VMBootTime == "auto" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.VMBootTime)
	if err != nil || d < time.Second || d > time.Hour {
		return 0, fmt.Errorf("invalid vm-boot-time %q: want a duration as 90s or 5m, from 1s to 1h, or auto", c.VMBootTime)
	}
	return d, nil
}

// ParseBalloon reads vm-balloon on a host with so many bytes of memory: "10%",
// "2g"; "off" is 0.
func ParseBalloon(text string, total int64) (int64, error) {
	if text == "off" {
		return 0, nil
	}
	if part, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(part, 64)
		if err == nil && n > 0 && n < 100 {
			return int64(n / 100 * float64(total)), nil
		}
	} else if n, err := units.RAMInBytes(text); err == nil && n > 0 {
		return n, nil
	}
	return 0, fmt.Errorf("invalid vm-balloon %q: give a part of the host's memory (10%%), a size (2g) or off", text)
}

// ParsePolicy reads one line of isolation-policy: "vm:label=tenant=acme",
// "vm:network=dmz".
func ParsePolicy(text string) (isolation, label, network string, err error) {
	isolation, rest, ok := strings.Cut(text, ":")
	kind, value, has := strings.Cut(rest, "=")
	if !ok || !has || value == "" || isolation != "vm" && isolation != "container" {
		return "", "", "", fmt.Errorf("invalid isolation-policy %q: use vm:label=KEY, vm:label=KEY=VALUE or vm:network=NAME", text)
	}
	switch kind {
	case "label":
		return isolation, value, "", nil
	case "network":
		return isolation, "", value, nil
	}
	return "", "", "", fmt.Errorf("invalid isolation-policy %q: it can look at label or network, not at %q", text, kind)
}
