package config

import (
	"fmt"
	"os"
	"strings"
)

// minVMMemory is what a kernel and the agent need to come up.
const minVMMemory = 96 << 20

func (c *Config) checkVM() error {
	if err := oneOf("default-isolation", c.DefaultIsolation, "container", "vm"); err != nil {
		return err
	}
	if err := oneOf("vm-accelerator", c.VMAccelerator, "auto", "kvm", "tcg"); err != nil {
		return err
	}
	if c.VMMemory < minVMMemory {
		return fmt.Errorf("invalid vm-memory %d: a virtual machine needs %d MiB or more", c.VMMemory, minVMMemory>>20)
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
