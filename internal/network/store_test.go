package network

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// A file that a disk has garbled costs one network, not the daemon, and is
// kept for a person.
func TestDamagedStateIsLeftOut(t *testing.T) {
	s := store{t.TempDir()}
	good := record{Network: network.Network{ID: "good", Name: "good"}}
	if err := s.save(good); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"torn": `{"ID":"to`, "other": `{"ID":"someone else"}`, "empty": ""} {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time they are out of the way
		all, err := s.load()
		if err != nil || len(all) != 1 || all[0].ID != "good" {
			t.Fatalf("%v, %v", all, err)
		}
	}
	kept, _ := filepath.Glob(filepath.Join(s.dir, "*.damaged"))
	if len(kept) != 3 {
		t.Errorf("kept %v", kept)
	}
}
