package accel

import (
	"testing"
	"unsafe"
)

// The kernel reads these structures.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(sregs{}); n != 0x138 {
		t.Errorf("sregs: %d", n)
	}
	if n := unsafe.Sizeof(regs{}); n != 0x90 {
		t.Errorf("regs: %d", n)
	}
	if n := unsafe.Sizeof(memoryRegion{}); n != 32 {
		t.Errorf("memory region: %d", n)
	}
}
