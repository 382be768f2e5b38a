package dockerapi

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	fieldsPage   = "../../docs/compatibility-fields.md"
	fieldsMarker = "<!-- Below: one row a field of swagger.yaml, by go test ./internal/dockerapi -run CompatibilityFields -update; states and notes are written by hand. -->"
)

var fieldLine = regexp.MustCompile(`^\| ([^|]+) \| ([^|]*) \| ([^|]+) \| ([^|]*)\|$`)

// judged is what a person wrote about a field.
type judged struct{ state, note string }

// readFields reads the page: what stands above the tables, and the rows.
func readFields(t *testing.T) (head string, rows map[fieldRow]judged) {
	t.Helper()
	raw, err := os.ReadFile(fieldsPage)
	if err != nil {
		t.Fatal(err)
	}
	head, tables, ok := strings.Cut(string(raw), fieldsMarker)
	if !ok {
		t.Fatalf("%s has lost its marker line %q", fieldsPage, fieldsMarker)
	}
	rows = map[fieldRow]judged{}
	section := ""
	for line := range strings.Lines(tables) {
		line = strings.TrimSuffix(line, "\n")
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section = s
		} else if m := fieldLine.FindStringSubmatch(line); m != nil && m[1] != "field" && m[1] != "---" {
			rows[fieldRow{section, m[1], m[2]}] = judged{m[3], strings.TrimSpace(m[4])}
		}
	}
	return head, rows
}

// Every field and parameter of Docker's API that concerns a single host stands
// in the page with a state that a person gave it, and nothing else does.
func TestCompatibilityFields(t *testing.T) {
	want := swaggerRows(t)
	head, have := readFields(t)
	if *update {
		if err := os.WriteFile(fieldsPage, []byte(head+fieldsMarker+"\n"+fieldTables(want, have)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, have = readFields(t)
	}
	source := doorSource(t)
	for _, row := range want {
		j, ok := have[row]
		delete(have, row)
		switch {
		case !ok:
			t.Errorf("%s has no row for %s of %s (%s); -update adds it", fieldsPage, row.name, row.section, row.typ)
		case j.state != "yes" && j.state != "partly" && j.state != "no":
			t.Errorf("%s: say of %s of %s: yes, partly or no, not %q", fieldsPage, row.name, row.section, j.state)
		case j.state != "yes" && j.note == "":
			t.Errorf("%s: say why %s of %s is %q", fieldsPage, row.name, row.section, j.state)
		}
		if row.section == parameterSection && row.typ == "query" && j.state == "yes" {
			p := row.name[strings.LastIndexByte(row.name, ' ')+1:]
			if !strings.Contains(strings.ToLower(source), `"`+strings.ToLower(p)+`"`) {
				t.Errorf("%s: %s is said to be there, but no file here names it", fieldsPage, row.name)
			}
		}
	}
	for row := range have {
		t.Errorf("%s has a row for %s of %s (%s), which swagger.yaml has not; -update removes it", fieldsPage, row.name, row.section, row.typ)
	}
}

// fieldTables writes the tables anew with what people wrote.
func fieldTables(want []fieldRow, have map[fieldRow]judged) string {
	var b strings.Builder
	section := ""
	for _, row := range want {
		if row.section != section {
			section = row.section
			fmt.Fprintf(&b, "\n## %s\n\n| field | type | state | note |\n|---|---|---|---|\n", section)
		}
		j, ok := have[row]
		if !ok {
			j.state = "?"
		}
		if j.note != "" {
			j.note += " "
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s|\n", row.name, row.typ, j.state, j.note)
	}
	return b.String()
}

// doorSource is this package's text without its tests.
func doorSource(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(raw)
	}
	return b.String()
}
