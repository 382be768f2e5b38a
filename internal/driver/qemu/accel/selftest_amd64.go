package accel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KVM's ioctls (linux/kvm.h) with the sizes of x86's structures.
const (
	getAPIVersion    = 0xae00
	createVM         = 0xae01
	getVCPUMmapSize  = 0xae04
	createVCPU       = 0xae41
	setTSSAddr       = 0xae47
	runVCPU          = 0xae80
	setMemoryRegion  = 0x4020ae46
	setIdentityMap   = 0x4008ae48
	setRegs          = 0x4090ae82
	getSregs         = 0x8138ae83
	setSregs         = 0x4138ae84
	getSupportedCPID = 0xc008ae05
	setCPUID2        = 0x4008ae90
)

// Reasons for a guest's exit.
const (
	exitIO  = 2
	exitHLT = 5
)

// Offsets in struct kvm_run.
const (
	atExitReason = 8
	atIO         = 32 // direction, size, port, count
	atIOPort     = 34
	atIOData     = 40 // offset of the data in the structure
)

type memoryRegion struct {
	slot, flags         uint32
	guest, size, memory uint64
}

type segment struct {
	base                                               uint64
	limit                                              uint32
	selector                                           uint16
	typ, present, dpl, db, s, l, g, avl, unusable, pad uint8
}

type table struct {
	base  uint64
	limit uint16
	pad   [3]uint16
}

// sregs is struct kvm_sregs.
type sregs struct {
	cs, ds, es, fs, gs, ss, tr, ldt     segment
	gdt, idt                            table
	cr0, cr2, cr3, cr4, cr8, efer, apic uint64
	interrupts                          [4]uint64
}

// regs is struct kvm_regs.
type regs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

// Places in the test guest's memory.
const (
	guestSize = 2 << 20
	realAt    = 0x1000
	longAt    = 0x1100
	pml4At    = 0x2000
	pdptAt    = 0x3000
	pdAt      = 0x4000
	testPort  = 0x10
)

// The two guests: each writes one letter to a port and halts. The second one
// counts two million down and does 64-bit arithmetic first: there are KVMs that
// run a guest like ours only by interpreting each instruction, a thousand times
// slower (PVM with a guest that is not made for it), for which the time limit
// is too short.
var (
	realCode = []byte{
		0xb0, 'R', // mov al, 'R'
		0xe6, testPort, // out testPort, al
		0xf4, // hlt
	}
	longCode = []byte{
		0xb9, 0x80, 0x84, 0x1e, 0x00, // mov ecx, 2_000_000
		0xff, 0xc9, // again: dec ecx
		0x75, 0xfc, // jnz again
		0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 'L', 0, 0, 0, // mov rax, 'L'<<32 | 0x55667788
		0x48, 0xc1, 0xe8, 0x20, // shr rax, 32
		0xe6, testPort, // out testPort, al
		0xf4, // hlt
	}
)

// guest is a machine of one CPU.
type guest struct {
	vm, cpu int
	memory  []byte
	run     []byte
}

// selfTest runs both guests on an open /dev/kvm.
func selfTest(kvm int) error {
	runtime.LockOSThread() // a virtual CPU belongs to a thread
	defer runtime.UnlockOSThread()
	g, err := newGuest(kvm)
	if err != nil {
		return err
	}
	copy(g.memory[realAt:], realCode)
	copy(g.memory[longAt:], longCode)
	const presentWritable, large = 3, 1 << 7
	binary.LittleEndian.PutUint64(g.memory[pml4At:], pdptAt|presentWritable)
	binary.LittleEndian.PutUint64(g.memory[pdptAt:], pdAt|presentWritable)
	binary.LittleEndian.PutUint64(g.memory[pdAt:], presentWritable|large)

	var s sregs
	if err := ioctl(g.cpu, getSregs, unsafe.Pointer(&s), "KVM_GET_SREGS"); err != nil {
		return err
	}
	real := s
	real.cs.base, real.cs.selector = 0, 0
	if err := g.start(&real, realAt, 'R', "real mode"); err != nil {
		return err
	}
	return g.start(longMode(s), longAt, 'L', "long mode")
}

// longMode is the state of a CPU in 64-bit mode with 2 MiB mapped one to one.
func longMode(s sregs) *sregs {
	code := segment{limit: 0xffffffff, selector: 8, typ: 11, present: 1, s: 1, l: 1, g: 1}
	data := segment{limit: 0xffffffff, selector: 16, typ: 3, present: 1, db: 1, s: 1, g: 1}
	s.cs = code
	s.ds, s.es, s.fs, s.gs, s.ss = data, data, data, data, data
	s.cr3 = pml4At
	s.cr4 = 1 << 5        // PAE
	s.cr0 = 1<<31 | 0x33  // PG, NE, ET, MP, PE
	s.efer = 1<<10 | 1<<8 // LMA, LME
	return &s
}

func newGuest(kvm int) (*guest, error) {
	v, err := ioctlInt(kvm, getAPIVersion, 0, "KVM_GET_API_VERSION")
	if err != nil {
		return nil, err
	}
	if v != 12 {
		return nil, fmt.Errorf("KVM has API version %d instead of 12", v)
	}
	g := &guest{}
	if g.vm, err = ioctlInt(kvm, createVM, 0, "KVM_CREATE_VM"); err != nil {
		return nil, err
	}
	// Old Intel processors keep real mode's state here.
	if _, err := ioctlInt(g.vm, setTSSAddr, 0xfffbd000, "KVM_SET_TSS_ADDR"); err != nil {
		return nil, err
	}
	identity := uint64(0xfffbc000)
	if err := ioctl(g.vm, setIdentityMap, unsafe.Pointer(&identity), "KVM_SET_IDENTITY_MAP_ADDR"); err != nil {
		return nil, err
	}
	if g.memory, err = unix.Mmap(-1, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	m := memoryRegion{size: guestSize, memory: uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	if err := ioctl(g.vm, setMemoryRegion, unsafe.Pointer(&m), "KVM_SET_USER_MEMORY_REGION"); err != nil {
		return nil, err
	}
	if g.cpu, err = ioctlInt(g.vm, createVCPU, 0, "KVM_CREATE_VCPU"); err != nil {
		return nil, err
	}
	n, err := ioctlInt(kvm, getVCPUMmapSize, 0, "KVM_GET_VCPU_MMAP_SIZE")
	if err != nil {
		return nil, err
	}
	if g.run, err = unix.Mmap(g.cpu, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, os.NewSyscallError("mmap of the virtual CPU", err)
	}
	return g, g.features(kvm)
}

// features gives the CPU what the host's KVM supports: without long mode in
// them it cannot enter it.
func (g *guest) features(kvm int) error {
	const most = 256
	list := make([]byte, 8+40*most) // struct kvm_cpuid2 and its entries
	binary.NativeEndian.PutUint32(list, most)
	if err := ioctl(kvm, getSupportedCPID, unsafe.Pointer(&list[0]), "KVM_GET_SUPPORTED_CPUID"); err != nil {
		return err
	}
	return ioctl(g.cpu, setCPUID2, unsafe.Pointer(&list[0]), "KVM_SET_CPUID2")
}

// start runs the CPU at rip until it has written want and halted.
func (g *guest) start(s *sregs, rip uint64, want byte, mode string) error {
	if err := ioctl(g.cpu, setSregs, unsafe.Pointer(s), mode+": KVM_SET_SREGS"); err != nil {
		return err
	}
	r := regs{rip: rip, rflags: 2}
	if err := ioctl(g.cpu, setRegs, unsafe.Pointer(&r), mode+": KVM_SET_REGS"); err != nil {
		return err
	}
	if err := g.until(exitIO, mode); err != nil {
		return err
	}
	port := binary.NativeEndian.Uint16(g.run[atIOPort:])
	at := binary.NativeEndian.Uint64(g.run[atIOData:])
	if port != testPort || at >= uint64(len(g.run)) || g.run[at] != want {
		return fmt.Errorf("%s: the guest wrote something else than %q to port %d", mode, want, testPort)
	}
	return g.until(exitHLT, mode)
}

// until runs the CPU to its next exit, which has to be for one reason.
func (g *guest) until(reason uint32, mode string) error {
	for {
		_, err := ioctlInt(g.cpu, runVCPU, 0, mode+": KVM_RUN")
		if errors.Is(err, unix.EINTR) { // the Go runtime's own signals
			continue
		}
		if err != nil {
			return err
		}
		if got := binary.NativeEndian.Uint32(g.run[atExitReason:]); got != reason {
			return fmt.Errorf("%s: the guest ended for reason %d instead of %d", mode, got, reason)
		}
		return nil
	}
}

func ioctl(fd int, req uint, arg unsafe.Pointer, name string) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg)); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}

func ioctlInt(fd int, req uint, arg uintptr, name string) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg)
	if errno != 0 {
		return 0, os.NewSyscallError(name, errno)
	}
	return int(r), nil
}
