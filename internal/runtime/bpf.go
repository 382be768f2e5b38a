package runtime

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	bpfInsnSize = 8
	bpfLogSize  = 16 << 10
)

// bpfLoad is the part of union bpf_attr that BPF_PROG_LOAD reads.
type bpfLoad struct {
	progType, insnCount uint32
	insns, license      uint64
	logLevel, logSize   uint32
	log                 uint64
	kernVersion, flags  uint32
}

type bpfAttach struct {
	target, prog, kind, flags uint32
}

// attachDevices loads a device program and attaches it to a cgroup of v2.
func attachDevices(dir string, program []byte) error {
	cg, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open cgroup", Path: dir, Err: err}
	}
	defer unix.Close(cg)
	prog, err := loadDevices(program)
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	at := bpfAttach{target: uint32(cg), prog: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&at), unsafe.Sizeof(at)); err != nil {
		return fmt.Errorf("attach device program to %s: %w", dir, err)
	}
	return nil
}

func loadDevices(program []byte) (int, error) {
	license := []byte("Apache\x00")
	load := bpfLoad{
		progType:  unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		insnCount: uint32(len(program) / bpfInsnSize),
		insns:     uint64(uintptr(unsafe.Pointer(&program[0]))),
		license:   uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err == nil {
		return fd, nil
	}
	log := make([]byte, bpfLogSize)
	load.logLevel, load.logSize, load.log = 1, bpfLogSize, uint64(uintptr(unsafe.Pointer(&log[0])))
	fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if err == nil {
		return fd, nil
	}
	return -1, fmt.Errorf("load device program: %w (%s)", err, unix.ByteSliceToString(log))
}

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}
