// Command tally reads `go test -json` and prints what a person wants: a line
// per package, the whole output of what failed, each skip with its reason, and
// as the last line how many passed, failed and were skipped. It ends with 1
// when something failed.
//
//	go test -json ./... | tally [-add FILE]
//
// With -add the counts are added to FILE, so that several runs give one sum.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
)

// event is a line of test2json's output.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type counts struct{ Passed, Failed, Skipped int }

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
}

type tally struct {
	out    io.Writer
	counts counts
	output map[string][]string // by package and test
	failed map[string]bool     // packages with a failed test
	skips  []string
}

func main() {
	add := flag.String("add", "", "file to add the counts to")
	flag.Parse()
	t := &tally{out: os.Stdout, output: map[string][]string{}, failed: map[string]bool{}}
	if err := t.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	sort.Strings(t.skips)
	for _, s := range t.skips {
		fmt.Println("skipped:", s)
	}
	if *add == "" {
		fmt.Println(t.counts)
	} else if err := addTo(*add, t.counts); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	if t.counts.Failed > 0 || t.counts.Passed+t.counts.Skipped == 0 {
		os.Exit(1)
	}
}

func (t *tally) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(t.out, "%s", line) // the go command's own words
			} else {
				t.event(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) event(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		t.output[key] = append(t.output[key], e.Output)
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.pkg(e)
			return
		}
		t.test(e, key)
	}
}

// test counts a test. One with subtests is counted too: it has checks of its own.
func (t *tally) test(e event, key string) {
	switch e.Action {
	case "pass":
		t.counts.Passed++
	case "skip":
		t.counts.Skipped++
		t.skips = append(t.skips, short(e.Package)+" "+e.Test+": "+reason(t.output[key]))
	case "fail":
		t.counts.Failed++
		t.failed[e.Package] = true
		fmt.Fprintf(t.out, "FAILED %s %s\n", short(e.Package), e.Test)
		for _, l := range t.output[key] {
			fmt.Fprint(t.out, "    ", l)
		}
	}
	delete(t.output, key)
}

// pkg reports a package. One that fails without a failed test did not build,
// or its TestMain failed, or it ran out of time.
func (t *tally) pkg(e event) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	out := strings.Join(t.output[e.Package+" "], "")
	switch {
	case e.Action == "skip" || strings.Contains(out, "[no test files]"):
	case e.Action == "fail":
		if !t.failed[e.Package] {
			t.counts.Failed++
		}
		for key, lines := range t.output { // tests that never ended
			if strings.HasPrefix(key, e.Package+" ") {
				fmt.Fprintf(t.out, "    %s\n", strings.Join(lines, "    "))
			}
		}
		fmt.Fprintf(t.out, "FAIL %-40s %s\n", short(e.Package), took)
	default:
		fmt.Fprintf(t.out, "ok   %-40s %s\n", short(e.Package), took)
	}
	for key := range t.output {
		if strings.HasPrefix(key, e.Package+" ") {
			delete(t.output, key)
		}
	}
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "wharf/") }

// reason is what a skipped test said, without its position.
func reason(lines []string) string {
	for _, l := range lines {
		if _, text, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return "no reason given"
}

func addTo(file string, c counts) error {
	var sum counts
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &sum); err != nil {
			return err
		}
	}
	sum.Passed, sum.Failed, sum.Skipped = sum.Passed+c.Passed, sum.Failed+c.Failed, sum.Skipped+c.Skipped
	if b, err = json.Marshal(sum); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
