// Command tally reads `go test -json` and prints what a person wants: a line
// per package, the whole output of what failed, each skip with its reason, and
// as the last line how many passed, failed and were skipped. It ends with 1
// when something failed.
//
//	go test -json ./... | tally [-add FILE] [-failures FILE]
//
// With -add the counts are added to FILE, so that several runs give one sum;
// with -failures what failed is added to FILE too, to be shown at the end of
// all of them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"time"
)

// shownLines is how much of one failure's output is repeated at the end: more
// is only the goroutines of something that hung. All of it is told before.
const shownLines = 400

// event is a line of test2json's output.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

type counts struct{ Passed, Failed, Skipped int }

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
}

type tally struct {
	out      io.Writer
	counts   counts
	output   map[string][]string        // by package and test
	running  map[string]map[string]bool // by package: its tests that have begun and not ended
	failed   map[string]bool            // packages with a failed test
	builds   map[string][]string        // what the compiler said, by import path
	words    []string                   // the go command's own
	failures []failure
	skips    []string
}

// failure is what is repeated at the end.
type failure struct {
	title string
	lines []string
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, output: map[string][]string{}, running: map[string]map[string]bool{}, failed: map[string]bool{}, builds: map[string][]string{}}
}

func main() {
	add := flag.String("add", "", "file to add the counts to")
	failures := flag.String("failures", "", "file to add what failed to")
	flag.Parse()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "tally:", err)
			os.Exit(1)
		}
	}
	t := newTally(os.Stdout)
	fail(t.read(os.Stdin))
	t.finish()
	sort.Strings(t.skips)
	for _, s := range t.skips {
		fmt.Println("skipped:", s)
	}
	if *failures != "" {
		fail(t.repeat(*failures))
	}
	if *add == "" {
		fmt.Println(t.counts)
	} else {
		fail(addTo(*add, t.counts))
	}
	if t.counts.Failed > 0 {
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
				t.words = append(t.words, string(line))
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
	case "start", "run":
		if t.running[e.Package] == nil {
			t.running[e.Package] = map[string]bool{}
		}
		if e.Test != "" {
			t.running[e.Package][e.Test] = true
		}
	case "output":
		t.output[key] = append(t.output[key], e.Output)
	case "build-output":
		fmt.Fprint(t.out, e.Output)
		t.builds[e.ImportPath] = append(t.builds[e.ImportPath], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.pkg(e)
			return
		}
		delete(t.running[e.Package], e.Test)
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
		t.fail(fmt.Sprintf("FAILED %s %s (%.1f s)", short(e.Package), e.Test, e.Elapsed), t.output[key])
	}
	delete(t.output, key)
}

// fail tells of a failure, now and at the end.
func (t *tally) fail(title string, lines []string) {
	fmt.Fprintln(t.out, title)
	for _, l := range lines {
		fmt.Fprint(t.out, "    ", strings.TrimSuffix(l, "\n"), "\n")
	}
	t.failures = append(t.failures, failure{title, lines})
}

// pkg reports a package. One that fails without a failed test did not build,
// or its TestMain failed, or it ran out of time: then the tests that never
// ended are told with what they had said.
func (t *tally) pkg(e event) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	own := e.Package + " "
	switch {
	case e.Action == "skip" || strings.Contains(strings.Join(t.output[own], ""), "[no test files]"):
	case e.Action == "fail":
		for _, name := range sorted(t.running[e.Package]) {
			t.counts.Failed++
			t.failed[e.Package] = true
			end := "the package was given up after " + took.String()
			if e.Elapsed == 0 {
				end = "the run was cut off"
			}
			t.fail(fmt.Sprintf("FAILED %s %s: it did not end; %s", short(e.Package), name, end), t.output[own+name])
		}
		said := slices.DeleteFunc(slices.Clone(t.output[own]), trivial)
		switch {
		case !t.failed[e.Package]:
			t.counts.Failed++
			t.fail(fmt.Sprintf("FAILED %s: the package itself, after %s", short(e.Package), took), append(t.builds[e.FailedBuild], said...))
			delete(t.builds, e.FailedBuild) // told once
		case len(said) > 0:
			t.fail(fmt.Sprintf("FAILED %s: what the package said", short(e.Package)), said)
		}
		fmt.Fprintf(t.out, "FAIL %-40s %s\n", short(e.Package), took)
	default:
		fmt.Fprintf(t.out, "ok   %-40s %s\n", short(e.Package), took)
	}
	delete(t.running, e.Package)
	for key := range t.output {
		if strings.HasPrefix(key, own) {
			delete(t.output, key)
		}
	}
}

// finish tells of packages that were cut off, and of a run that did nothing.
func (t *tally) finish() {
	for _, pkg := range sorted(t.running) {
		fmt.Fprintf(t.out, "%s was cut off\n", short(pkg))
		t.pkg(event{Action: "fail", Package: pkg})
	}
	if t.counts == (counts{}) {
		t.counts.Failed++
		t.fail("FAILED: no test has run; the go command said", t.words)
	}
}

// repeat adds the failures to a file.
func (t *tally) repeat(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, x := range t.failures {
		fmt.Fprintln(f, x.title)
		lines := strings.SplitAfter(strings.Join(x.lines, ""), "\n")
		for i, l := range lines {
			if more := len(lines) - shownLines; more > 0 && i >= shownLines/2 && i < len(lines)-shownLines/2 {
				if i == shownLines/2 {
					fmt.Fprintf(f, "    ... %d lines, see above ...\n", more)
				}
				continue
			}
			if l = strings.TrimSuffix(l, "\n"); l != "" {
				fmt.Fprintln(f, "    "+l)
			}
		}
	}
	return f.Close()
}

// trivial is a package's line that says nothing but that it failed.
func trivial(line string) bool {
	return line == "PASS\n" || line == "FAIL\n" || strings.HasPrefix(line, "FAIL\t") || strings.HasPrefix(line, "exit status ")
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
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
