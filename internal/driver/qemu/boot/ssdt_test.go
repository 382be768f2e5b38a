package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// The table of two slots, which iasl -d reads as two devices, with their
// registers at 0xfeb00200 and 0xfeb00400, their interrupts 25 and 26.
func TestSSDT(t *testing.T) {
	got := ssdt(2)
	var sum byte
	for _, b := range got {
		sum += b
	}
	if sum != 0 || binary.LittleEndian.Uint32(got[4:]) != uint32(len(got)) {
		t.Errorf("sum %d, length %d", sum, len(got))
	}
	at := filepath.Join("testdata", "ssdt.hex")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(at, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("UPDATE=1 go test writes it:\n%s", hex.Dump(got))
	}
	for n, length := range map[int]int{1: 2, 62: 63, 63: 65, 4093: 4095, 4094: 4097} { // where the length takes a byte more
		if p := amlPackage(nil, make([]byte, n)); len(p) != length {
			t.Errorf("package of %d: %d", n, len(p))
		}
	}
}

// The kernel finds the table in an archive of its own before the files.
func TestTables(t *testing.T) {
	var b bytes.Buffer
	if err := writeTables(&b); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	last := records[len(records)-1]
	if strings.TrimPrefix(last.Name, "/") != ssdtFile || int(last.FileSize) != len(ssdt(LateSlots)) || b.Len()%4 != 0 {
		t.Errorf("%s, %d bytes, archive of %d", last.Name, last.FileSize, b.Len())
	}
}
