package config

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// TestDocumentation keeps the document's tables true.
func TestDocumentation(t *testing.T) {
	const file = "../../docs/configuration.md"
	var b strings.Builder
	b.WriteString(`# Configuration of wharfd

Options stand in ` + "`" + DefaultFile + "`" + ` (JSON, the names of Docker's daemon.json) or on the command line (dockerd's names), not in both.
` + "`wharfd --validate`" + ` checks them. SIGHUP reads the file again: what the last column marks takes effect at once, for the rest the log
says that a restart is needed. A key that nobody knows is an error, as with dockerd.

These tables are made from the sources: ` + "`go test ./internal/config -update`" + `.

| key in the file | flag | what | reload |
|---|---|---|---|
`)
	for _, f := range fields(Default()) {
		reload, name := "", "--"+f.flag
		if f.reload {
			reload = "yes"
		}
		if f.flag == "-" {
			name = ""
		}
		if f.short != "" {
			name += ", -" + f.short
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.key, name, f.help, reload)
	}
	b.WriteString("\n## Options of dockerd that are refused\n\n| option | why, or what instead |\n|---|---|\n")
	for _, key := range slices.Sorted(maps.Keys(absent)) {
		fmt.Fprintf(&b, "| %s | %s |\n", key, absent[key])
	}
	b.WriteString(`
Also refused: ` + "`live-restore=false`, `iptables=false`, `selinux-enabled=true`" + `, a storage driver other than overlay2, an exec-opt other than
native.cgroupdriver=cgroupfs, a runtime other than wharf, and plain TCP unless ` + "`insecure-tcp`" + ` is set and the address is loopback.
`)
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what the sources say: go test ./internal/config -update", file)
	}
}
