package boot

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/u-root/u-root/pkg/cpio"
)

// LateSlots is how many virtio-mmio slots, from LateSlot on, a template's kernel
// knows of although they are empty. QEMU names to the kernel those only
// that have a device when the machine begins, and fills them from the last one
// down; what is plugged into a clone before it goes on is in the others.
const (
	LateSlot  = 1 // interrupts of slot 0 get lost
	LateSlots = 14
)

// Slots of QEMU's microvm: hw/i386/microvm.c, with a second IO-APIC.
const (
	slotBase = 0xfeb00000
	slotSize = 512
	slotIRQ  = 24
)

// ssdtFile is where the kernel looks for tables in an initramfs that is not
// compressed (Documentation/admin-guide/acpi/initrd_table_override.rst;
// CONFIG_ACPI_TABLE_UPGRADE).
const ssdtFile = "kernel/firmware/acpi/wharf.aml"

// writeTables writes the archive that goes before a template's initramfs.
func writeTables(w io.Writer) error {
	files := []cpio.Record{
		cpio.Directory("kernel", 0o755), cpio.Directory("kernel/firmware", 0o755), cpio.Directory("kernel/firmware/acpi", 0o755),
		cpio.StaticFile(ssdtFile, string(ssdt(LateSlots)), 0o644),
	}
	cpio.MakeAllReproducible(files)
	out := cpio.Newc.Writer(w)
	if err := cpio.WriteRecords(out, files); err != nil {
		return err
	}
	return cpio.WriteTrailer(out)
}

// Bytes of AML: ACPI specification 6.5, chapter 20.
const (
	amlOne, amlName, amlByte, amlString, amlScope, amlBuffer = 0x01, 0x08, 0x0a, 0x0d, 0x10, 0x11
	amlExtended, amlDevice                                   = 0x5b, 0x82
)

// ssdt is an ACPI table with n slots, as the machine's own table
// describes those that have a device.
func ssdt(n int) []byte {
	body := []byte(`\_SB_`)
	for i := LateSlot; i < LateSlot+n; i++ {
		body = append(body, slotDevice(i)...)
	}
	body = amlPackage([]byte{amlScope}, body)
	le := binary.LittleEndian
	out := le.AppendUint32([]byte("SSDT"), uint32(36+len(body)))
	out = append(out, 2, 0) // revision, checksum
	out = append(out, "WHARF LATEDEVS"...)
	out = le.AppendUint32(out, 1)
	out = append(out, "WHRF"...)
	out = le.AppendUint32(out, 1)
	out = append(out, body...)
	var sum byte
	for _, b := range out {
		sum += b
	}
	out[9] = -sum
	return out
}

// slotDevice is one slot as a device that drivers/virtio/virtio_mmio.c takes.
func slotDevice(i int) []byte {
	le := binary.LittleEndian
	crs := le.AppendUint32([]byte{0x86, 9, 0, 1}, slotBase+uint32(i)*slotSize) // Memory32Fixed, read and write
	crs = le.AppendUint32(crs, slotSize)
	crs = le.AppendUint32(append(crs, 0x89, 6, 0, 1, 1), slotIRQ+uint32(i)) // one interrupt: consumer, level, active high, exclusive
	crs = append(crs, 0x79, 0)

	b := fmt.Appendf(nil, "WH%02d", i)
	b = append(append(append(b, amlName), "_HID"...), amlString)
	b = append(b, "LNRO0005\x00"...)
	b = append(append(append(b, amlName), "_UID"...), amlByte, 0x40+byte(i)) // the machine's own are below
	b = append(append(append(b, amlName), "_CCA"...), amlOne)
	b = append(append(b, amlName), "_CRS"...)
	b = append(b, amlPackage([]byte{amlBuffer}, append([]byte{amlByte, byte(len(crs))}, crs...))...)
	return amlPackage([]byte{amlExtended, amlDevice}, b)
}

// amlPackage puts the length that an operation has before its body: of both,
// itself included, in as few bytes as it takes.
func amlPackage(op, body []byte) []byte {
	n := len(body)
	switch {
	case n+1 < 1<<6:
		op = append(op, byte(n+1))
	case n+2 < 1<<12:
		n += 2
		op = append(op, 1<<6|byte(n&15), byte(n>>4))
	default:
		n += 3
		op = append(op, 2<<6|byte(n&15), byte(n>>4), byte(n>>12))
	}
	return append(op, body...)
}
