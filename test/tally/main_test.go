package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	in := `{"Action":"output","Package":"wharf/a","Test":"TestX","Output":"    x_test.go:7: no root here\n"}
{"Action":"skip","Package":"wharf/a","Test":"TestX"}
{"Action":"output","Package":"wharf/a","Test":"TestY","Output":"    y_test.go:9: wrong\n"}
{"Action":"fail","Package":"wharf/a","Test":"TestY"}
{"Action":"pass","Package":"wharf/a","Test":"TestZ"}
{"Action":"fail","Package":"wharf/a","Elapsed":1.5}
{"Action":"build-output","ImportPath":"wharf/b","Output":"b.go:1: undefined\n"}
{"Action":"fail","Package":"wharf/b"}
{"Action":"skip","Package":"wharf/c"}
go: downloading nothing
`
	var out bytes.Buffer
	ta := &tally{out: &out, output: map[string][]string{}, failed: map[string]bool{}}
	if err := ta.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if got := ta.counts.String(); got != "1 passed, 2 failed, 1 skipped" {
		t.Error(got)
	}
	if len(ta.skips) != 1 || ta.skips[0] != "a TestX: no root here" {
		t.Errorf("skips: %q", ta.skips)
	}
	for _, want := range []string{"FAILED a TestY", "wrong", "b.go:1: undefined", "FAIL b", "go: downloading nothing"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, out.String())
		}
	}
}
