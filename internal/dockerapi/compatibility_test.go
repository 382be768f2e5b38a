package dockerapi

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// The table of what is there must not lose a route or a field.
func TestCompatibilityTable(t *testing.T) {
	raw, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| (yes|partly|no) \|`).FindAllStringSubmatch(string(raw), -1) {
		if rows[m[1]] {
			t.Errorf("%s stands there twice", m[1])
		}
		rows[m[1]] = true
	}
	need := func(row string) {
		if !rows[row] {
			t.Errorf("docs/compatibility.md has no row %q", row)
		}
		delete(rows, row)
	}
	for _, r := range (&server{}).table() {
		need(r.method + " " + r.path)
	}
	for row := range rows {
		if strings.Contains(row, " /") {
			t.Errorf("docs/compatibility.md has a row %q, but there is no such route", row)
		}
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[container.Config](), reflect.TypeFor[container.HostConfig](), reflect.TypeFor[container.Resources]()} {
		for i := range typ.NumField() {
			if f := typ.Field(i); !f.Anonymous {
				need(f.Name)
			}
		}
	}
}
