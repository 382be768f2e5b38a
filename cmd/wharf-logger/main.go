// Command wharf-logger sends one container's output to a log collector: see
// internal/logs/ship. wharf-monitor starts it; it is of no use by hand.
package main

import (
	"os"
	"runtime"

	"wharf/internal/logs/ship"
)

func main() {
	runtime.GOMAXPROCS(1) // it waits most of the time, and each processor costs memory
	os.Exit(ship.Main(os.Stdin, os.Stdout, os.Stderr))
}
