// Command wharf-monitor holds one container: see internal/monitor. It is also
// the container's init stage and exec stage: see internal/runtime. wharfd
// starts it; it is of no use by hand.
package main

import (
	"os"

	"wharf/internal/monitor"
	"wharf/internal/runtime"
)

func main() {
	runtime.Main() // does not return in a stage
	os.Exit(monitor.Main())
}
