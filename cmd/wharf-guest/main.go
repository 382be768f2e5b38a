// Command wharf-guest is process 1 of a microVM: see internal/guest. It is
// also the container's init stage and exec stage there: see internal/runtime.
package main

import (
	"os"

	"wharf/internal/guest"
	"wharf/internal/runtime"
)

var version = "dev" // set by the build

func main() {
	runtime.Main() // does not return in a stage
	os.Exit(guest.Main(version))
}
