package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func run(t *testing.T, in string) (*tally, string, string) {
	t.Helper()
	var out bytes.Buffer
	ta := newTally(&out)
	if err := ta.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	ta.finish()
	file := filepath.Join(t.TempDir(), "failures")
	if err := ta.repeat(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return ta, out.String(), string(text)
}

func has(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q is not in\n%s", what, w, text)
		}
	}
}

func TestTally(t *testing.T) {
	ta, out, failures := run(t, `{"Action":"start","Package":"wharf/a"}
{"Action":"output","Package":"wharf/a","Test":"TestX","Output":"    x_test.go:7: no root here\n"}
{"Action":"skip","Package":"wharf/a","Test":"TestX"}
{"Action":"output","Package":"wharf/a","Test":"TestY","Output":"    y_test.go:9: wrong\n"}
{"Action":"fail","Package":"wharf/a","Test":"TestY"}
{"Action":"pass","Package":"wharf/a","Test":"TestZ"}
{"Action":"output","Package":"wharf/a","Output":"left a mount\n"}
{"Action":"output","Package":"wharf/a","Output":"FAIL\n"}
{"Action":"fail","Package":"wharf/a","Elapsed":1.5}
{"Action":"build-output","ImportPath":"wharf/b","Output":"b.go:1: undefined\n"}
{"Action":"fail","Package":"wharf/b","FailedBuild":"wharf/b"}
{"Action":"start","Package":"wharf/c"}
{"Action":"output","Package":"wharf/c","Output":"?   \twharf/c\t[no test files]\n"}
{"Action":"skip","Package":"wharf/c"}
go: downloading nothing
`)
	if got := ta.counts.String(); got != "1 passed, 2 failed, 1 skipped" {
		t.Error(got)
	}
	if len(ta.skips) != 1 || ta.skips[0] != "a TestX: no root here" {
		t.Errorf("skips: %q", ta.skips)
	}
	has(t, "output", out, "FAILED a TestY", "wrong", "left a mount", "b.go:1: undefined", "FAIL b", "go: downloading nothing")
	has(t, "failures", failures, "FAILED a TestY", "wrong", "FAILED a: what the package said", "left a mount", "FAILED b: the package itself", "b.go:1: undefined")
	if strings.Contains(failures, "no root") || strings.Contains(failures, "FAIL\n") {
		t.Error(failures)
	}
}

// A package that is given up, or cut off with the whole run, names the tests
// that hung, with what they had said.
func TestHung(t *testing.T) {
	const hung = `{"Action":"start","Package":"wharf/a"}
{"Action":"run","Package":"wharf/a","Test":"TestA"}
{"Action":"pass","Package":"wharf/a","Test":"TestA"}
{"Action":"run","Package":"wharf/a","Test":"TestHangs"}
{"Action":"output","Package":"wharf/a","Test":"TestHangs","Output":"    a_test.go:5: waiting\n"}
`
	for name, end := range map[string]string{
		"given up": `{"Action":"output","Package":"wharf/a","Output":"panic: test timed out after 15m0s\n"}
{"Action":"fail","Package":"wharf/a","Elapsed":900}
`, "cut off": "", "in a line": `{"Action":"out`,
	} {
		ta, _, failures := run(t, hung+end)
		if got := ta.counts.String(); got != "1 passed, 1 failed, 0 skipped" {
			t.Error(name, got)
		}
		has(t, name, failures, "FAILED a TestHangs: it did not end", "waiting")
		if name == "given up" {
			has(t, name, failures, "after 15m0s", "panic: test timed out")
		}
	}
}

func TestNothingRan(t *testing.T) {
	ta, _, failures := run(t, "go: cannot find main module\n")
	if ta.counts.Failed != 1 {
		t.Error(ta.counts)
	}
	has(t, "failures", failures, "no test has run", "cannot find main module")
}

// A dump of a thousand goroutines does not hide the other failures.
func TestLongOutput(t *testing.T) {
	var in strings.Builder
	for i := range 3 * shownLines {
		fmt.Fprintf(&in, `{"Action":"output","Package":"wharf/a","Test":"TestX","Output":"line %d.\n"}`+"\n", i)
	}
	_, out, failures := run(t, in.String()+`{"Action":"fail","Package":"wharf/a","Test":"TestX"}`+"\n")
	last := fmt.Sprintf("line %d.", 3*shownLines-1)
	has(t, "output", out, "line 0.", fmt.Sprintf("line %d.", shownLines), last)
	has(t, "failures", failures, "line 0.", last, "lines, see above")
	if n := strings.Count(failures, "\n"); n > shownLines+5 {
		t.Errorf("%d lines", n)
	}
}
