package boot

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxVmlinux bounds what a kernel may unpack to.
const maxVmlinux = 1 << 30

// Offsets in a bzImage (Documentation/arch/x86/boot.rst).
const (
	atSetupSects    = 0x1f1
	atBootFlag      = 0x1fe
	atHeader        = 0x202
	atVersion       = 0x206
	atPayloadOffset = 0x248
	atPayloadLength = 0x24c
	sector          = 512
)

// ErrKernel is a file that is not a kernel we can boot.
var ErrKernel = errors.New("not a bootable kernel")

// Vmlinux returns the ELF image in a kernel file: itself, or what a bzImage
// carries compressed. It checks that QEMU can enter it directly (PVH).
func Vmlinux(file []byte) ([]byte, error) {
	image := file
	if !bytes.HasPrefix(file, []byte(elf.ELFMAG)) {
		payload, err := payload(file)
		if err != nil {
			return nil, err
		}
		if image, err = unpack(payload); err != nil {
			return nil, err
		}
	}
	if err := checkPVH(image); err != nil {
		return nil, err
	}
	return image, nil
}

// payload finds the compressed image in a bzImage.
func payload(b []byte) ([]byte, error) {
	if len(b) < atPayloadLength+4 || b[atBootFlag] != 0x55 || b[atBootFlag+1] != 0xaa || string(b[atHeader:atHeader+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: neither ELF nor bzImage", ErrKernel)
	}
	if v := binary.LittleEndian.Uint16(b[atVersion:]); v < 0x0208 {
		return nil, fmt.Errorf("%w: boot protocol %x is too old", ErrKernel, v)
	}
	sects := uint64(b[atSetupSects])
	if sects == 0 {
		sects = 4
	}
	from := (sects+1)*sector + uint64(binary.LittleEndian.Uint32(b[atPayloadOffset:]))
	n := uint64(binary.LittleEndian.Uint32(b[atPayloadLength:]))
	if n < 8 || from+n > uint64(len(b)) {
		return nil, fmt.Errorf("%w: the payload is outside the file", ErrKernel)
	}
	return b[from : from+n], nil
}

// unpack decompresses a payload. Its last four bytes are its size unpacked.
func unpack(p []byte) ([]byte, error) {
	size := binary.LittleEndian.Uint32(p[len(p)-4:])
	if size > maxVmlinux {
		return nil, fmt.Errorf("%w: %d bytes unpacked", ErrKernel, size)
	}
	body := p[:len(p)-4]
	switch {
	case bytes.HasPrefix(p, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unLZ4(body[4:], int(size))
	case bytes.HasPrefix(p, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<29))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return readAll(d, int(size))
	case bytes.HasPrefix(p, []byte{0x1f, 0x8b}):
		d, err := gzip.NewReader(bytes.NewReader(p)) // the size is gzip's own last word
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrKernel, err)
		}
		return readAll(d, int(size))
	}
	return nil, fmt.Errorf("%w: compressed by a method that starts with % x (known: lz4, zstd, gzip)", ErrKernel, p[:4])
}

// unLZ4 reads the "legacy" frame that kernels use: blocks of at most 8 MiB
// unpacked, each with its packed length in front.
func unLZ4(b []byte, size int) ([]byte, error) {
	const block = 8 << 20
	var out []byte // grown block by block, so that a promise alone claims no memory
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: lz4: cut off", ErrKernel)
		}
		n := binary.LittleEndian.Uint32(b)
		b = b[4:]
		if uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("%w: lz4: a block of %d bytes where %d are left", ErrKernel, n, len(b))
		}
		room := min(block, size-len(out))
		if room == 0 { // which the library takes no empty buffer for
			return nil, fmt.Errorf("%w: lz4: more than %d bytes", ErrKernel, size)
		}
		out = slices.Grow(out, room)
		m, err := lz4.UncompressBlock(b[:n], out[len(out):len(out)+room])
		if err != nil {
			return nil, fmt.Errorf("%w: lz4: %v", ErrKernel, err)
		}
		out, b = out[:len(out)+m], b[n:]
	}
	if len(out) != size {
		return nil, fmt.Errorf("%w: lz4: %d bytes instead of %d", ErrKernel, len(out), size)
	}
	return out, nil
}

func readAll(r io.Reader, size int) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(r, int64(size)+1)); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKernel, err)
	}
	if b.Len() != size {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrKernel, b.Len(), size)
	}
	return b.Bytes(), nil
}

// notePVH is XEN_ELFNOTE_PHYS32_ENTRY: where a PVH loader enters.
const notePVH = 18

// checkPVH looks for the note that lets QEMU enter the image without a boot
// loader.
func checkPVH(image []byte) error {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("%w: %v", ErrKernel, err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("%w: it is for %v", ErrKernel, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("%w: notes: %v", ErrKernel, err)
		}
		if hasNote(notes, "Xen", notePVH) {
			return nil
		}
	}
	return fmt.Errorf("%w: it has no PVH entry (CONFIG_PVH)", ErrKernel)
}

// hasNote walks ELF notes (elf(5)): name size, description size, type, then
// both padded to four bytes.
func hasNote(b []byte, name string, typ uint32) bool {
	for len(b) >= 12 {
		nameLen, descLen := uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:]))
		t := binary.LittleEndian.Uint32(b[8:])
		end := 12 + (nameLen+3)&^3 + (descLen+3)&^3
		if end > uint64(len(b)) {
			return false
		}
		if t == typ && string(bytes.TrimRight(b[12:12+nameLen], "\x00")) == name {
			return true
		}
		b = b[end:]
	}
	return false
}
