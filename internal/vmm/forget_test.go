package vmm

import (
	"os"
	"testing"
)

func TestOpenFiles(t *testing.T) {
	before, limit := openFiles(os.Getpid())
	if before == 0 || limit < before {
		t.Fatalf("%d of %d", before, limit)
	}
	var more []*os.File
	for range 20 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		more = append(more, f)
	}
	after, _ := openFiles(os.Getpid())
	for _, f := range more {
		_ = f.Close()
	}
	if after < before+20 {
		t.Errorf("%d before and %d after 20 more", before, after)
	}
	if have, limit := openFiles(1 << 30); have != 0 || limit != 0 {
		t.Errorf("a process that is not there has %d of %d", have, limit)
	}
}

// A tap without a network is in no namespace that somebody sees.
func TestLooseTap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a tap needs root: run it as root (make test)")
	}
	f, err := looseTap("")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := os.Stat("/sys/class/net/loose0"); err == nil {
		t.Error("it is among this namespace's interfaces")
	}
	twice, err := looseTap("")
	if err != nil {
		t.Fatalf("a second one: %v", err)
	}
	_ = twice.Close()
}
