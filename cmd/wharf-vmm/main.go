// Command wharf-vmm holds one virtual machine: see internal/vmm. It is also
// the init stage of QEMU's own container: see internal/runtime. wharfd starts
// it; it is of no use by hand.
package main

import (
	"os"

	"wharf/internal/driver/qemu/accel"
	"wharf/internal/runtime"
	"wharf/internal/vmm"
)

func main() {
	accel.Main()   // does not return in a self-test
	runtime.Main() // does not return in a stage
	os.Exit(vmm.Main())
}
