// Command bench measures wharf beside the engines that are installed, on one
// machine in one run, and writes docs/performance.md.
//
//	bench -bin bin -images DIR -floor FLOOR [-rounds 20] [-quick] [-section scale] [-o docs/performance.md]
//
// Everything runs in network and mount namespaces of its own with data below
// one temporary directory, on the same file system for all. The engines take
// turns: each round runs every engine once, so that what else the machine does
// hits all alike. Figures are medians. It needs root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

type options struct {
	bin, images, floor, out, only string
	section, scaleCounts          string
	rounds, throughput            int
	quick                         bool
	limit                         time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of wharf's binaries")
	flag.StringVar(&o.images, "images", "/var/cache/wharf-test", "directory of the test images")
	flag.StringVar(&o.floor, "floor", ".cache/tools/floor", "the floor program")
	flag.StringVar(&o.out, "o", "", "file to write the table to; empty: only print")
	flag.StringVar(&o.only, "only", "", "measure only rows whose name contains this")
	flag.StringVar(&o.section, "section", "", "measure only these sections, with commas, and write only them: "+sectionNames())
	flag.StringVar(&o.scaleCounts, "counts", "200,1000", "how many containers the scale section makes")
	flag.IntVar(&o.rounds, "rounds", 20, "rounds of each measurement")
	flag.IntVar(&o.throughput, "seconds", 5, "seconds of the throughput measurement")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "time after which no further section is begun")
	flag.BoolVar(&o.quick, "quick", false, "5 rounds, no load, no throughput")
	flag.Parse()
	if o.quick {
		o.rounds, o.throughput = 5, 0
	}
	if os.Getenv("WHARF_BENCH_INSIDE") == "" {
		os.Exit(reexec())
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "WHARF_BENCH_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func run(o options) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// dockerd and podman keep sockets and locks below /run wherever their data is.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "wharf-bench-")
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir}
	defer func() { err = errors.Join(err, b.end()) }()
	if err := b.start(); err != nil {
		return err
	}
	start := time.Now()
	err = b.measure() // what was measured before an error is written all the same
	fmt.Printf("measured in %s\n\n", time.Since(start).Round(time.Second))
	return errors.Join(err, b.write())
}
