// Command vmtest runs test binaries as root on another kernel than this
// machine's: Debian's cloud kernel in QEMU, cgroup v2 only, ext4 and xfs with
// project quotas. What go test would print comes out; the exit code is 1 when
// a test failed. `make vmtest` runs it.
//
//	vmtest [-run REGEXP] [-keep-going] [PACKAGE...]    default: those of the table below
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"wharf/internal/driver/qemu/boot"
)

// suite is one test binary and how it is run.
type suite struct {
	pkg  string
	runs []string // "VARIABLE=VALUE... -test.flag ...", a run each
}

var suites = []suite{
	{"internal/runtime/cgroup", []string{""}},
	{"internal/host", []string{"-test.run ^TestIdmappedLayers$"}},
	{"internal/volume", []string{"WHARF_QUOTA_DIR=/work/quota -test.run ^TestSize$", "WHARF_QUOTA_DIR=/xfs/quota -test.run ^TestSize$"}},
	{"internal/runtime", []string{""}},
	{"internal/driver/native", []string{"WHARF_TEST_MONITOR=/tests/wharf-monitor"}},
}

// extra are modules that the tests need and virtual machines do not, each
// after those that it needs.
var extra = []string{"kernel/fs/xfs/xfs.ko", "kernel/fs/quota/quota_tree.ko", "kernel/fs/quota/quota_v2.ko"}

func main() {
	only := flag.String("run", "", "tests to run, as go test's -run")
	limit := flag.Duration("timeout", 10*time.Minute, "end the machine after so long")
	flag.Parse()
	ok, err := run(*only, *limit, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(only string, limit time.Duration, packages []string) (bool, error) {
	dir, err := os.MkdirTemp("", "wharf-vmtest-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	if err := build(dir, only, packages); err != nil {
		return false, err
	}
	img, err := boot.New(boot.Options{Dir: filepath.Join(dir, "boot"), Agent: filepath.Join(dir, "guest")}).Image(context.Background())
	if err != nil {
		return false, err
	}
	if img.Kernel.Modules == "" || img.Kernel.Release == "own" {
		return false, errors.New("the tests need a distribution's kernel with its modules: apt-get install linux-image-cloud-amd64")
	}
	if err := pack(dir, img); err != nil {
		return false, err
	}
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"}, "xfs": {"mkfs.xfs", "-q", "-f"},
	} {
		if err := disk(filepath.Join(dir, name), mkfs); err != nil {
			return false, err
		}
	}
	fmt.Printf("# kernel %s, built in %.1fs\n", img.Kernel.Release, time.Since(began).Seconds())
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return machine(ctx, dir, img)
}

// build makes the test binaries, the programs that they start, and the list.
func build(dir, only string, packages []string) error {
	tests := filepath.Join(dir, "tests")
	if err := os.Mkdir(tests, 0o755); err != nil {
		return err
	}
	var list strings.Builder
	for _, s := range suites {
		if len(packages) > 0 && !contains(packages, s.pkg) {
			continue
		}
		name := strings.ReplaceAll(strings.TrimPrefix(s.pkg, "internal/"), "/", "-") + ".test"
		if err := gobuild("test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(tests, name), "./"+s.pkg); err != nil {
			return err
		}
		for _, r := range s.runs {
			env, flags := split(r)
			if only != "" {
				flags = append(flags, "-test.run", only)
			}
			words := append(append(env, "/tests/"+name, "-test.v", "-test.timeout=9m"), flags...)
			fmt.Fprintln(&list, strings.Join(words, " "))
		}
	}
	if list.Len() == 0 {
		return fmt.Errorf("none of %v is in the table of test/vmtest", packages)
	}
	if err := os.WriteFile(filepath.Join(tests, "list"), []byte(list.String()), 0o644); err != nil {
		return err
	}
	if err := gobuild("build", "-ldflags", "-s -w", "-o", filepath.Join(tests, "wharf-monitor"), "./cmd/wharf-monitor"); err != nil {
		return err
	}
	return gobuild("build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "guest"), "./test/vmtest/guest")
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if strings.TrimPrefix(l, "./") == s {
			return true
		}
	}
	return false
}

// split takes variables from flags.
func split(s string) (env, flags []string) {
	for _, w := range strings.Fields(s) {
		if strings.HasPrefix(w, "-") || len(flags) > 0 {
			flags = append(flags, w)
		} else {
			env = append(env, w)
		}
	}
	return env, flags
}

func gobuild(args ...string) error {
	goTool := os.Getenv("GO")
	if goTool == "" {
		goTool = "go"
	}
	c := exec.Command(goTool, args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// pack appends to the initramfs what is not in that of a virtual machine: the
// kernel unpacks one archive after the other.
func pack(dir string, img boot.Image) error {
	records := []cpio.Record{cpio.Directory("tests", 0o755), cpio.Directory("bin", 0o755), cpio.Directory("work", 0o755), cpio.Directory("xfs", 0o755)}
	add := func(name, file string, mode uint64) error {
		data, err := os.ReadFile(file)
		if err == nil {
			records = append(records, cpio.StaticFile(name, string(data), mode))
		}
		return err
	}
	err := add("bin/busybox", "/bin/busybox", 0o755)
	names, e := os.ReadDir(filepath.Join(dir, "tests"))
	err = errors.Join(err, e)
	for _, n := range names {
		err = errors.Join(err, add("tests/"+n.Name(), filepath.Join(dir, "tests", n.Name()), 0o755))
	}
	var list strings.Builder
	for _, m := range extra {
		name := strings.TrimSuffix(filepath.Base(m), ".ko")
		err = errors.Join(err, add(boot.ModuleDir+"/"+name+".ko", filepath.Join(img.Kernel.Modules, m), 0o644))
		fmt.Fprintln(&list, name)
	}
	if err != nil {
		return err
	}
	records = append(records, cpio.StaticFile("tests/modules", list.String(), 0o644))
	f, err := os.OpenFile(img.Initrd, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end%4 != 0 {
		return fmt.Errorf("initramfs of %d bytes: %w", end, err)
	}
	b := bufio.NewWriterSize(f, 1<<20)
	w := cpio.Newc.Writer(b)
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return b.Flush()
}

// disk makes a file system in a sparse file.
func disk(file string, mkfs []string) error {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, 1<<30); err != nil {
		return err
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", mkfs[0], err, out)
	}
	return nil
}

// machine boots and passes its console on. All went well when the guest's
// last line says so.
func machine(ctx context.Context, dir string, img boot.Image) (bool, error) {
	c := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "microvm,rtc=on,pit=on,pic=on", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768M", "-smp", "2", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", img.Vmlinux, "-initrd", img.Initrd, "-append", boot.CommandLine(boot.Line{TSCKHz: boot.TSCKHz()}), "-serial", "stdio",
		"-drive", "if=none,id=a,format=raw,cache=unsafe,file="+filepath.Join(dir, "ext4"), "-device", "virtio-blk-device,drive=a",
		"-drive", "if=none,id=b,format=raw,cache=unsafe,file="+filepath.Join(dir, "xfs"), "-device", "virtio-blk-device,drive=b",
		"-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-device,rng=r")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := c.Start(); err != nil {
		return false, fmt.Errorf("%w (apt-get install qemu-system-x86)", err)
	}
	last := ""
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimRight(s.Text(), "\r")
		fmt.Println(line)
		if strings.HasPrefix(line, "vmtest: done") {
			last = line
		}
	}
	err = c.Wait()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if last == "" {
		return false, fmt.Errorf("the machine ended before its tests: %w", err)
	}
	return last == "vmtest: done, 0 failed", nil
}
