package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// buildRow compares a build by `wharf build`, and by docker's own client
// (docker.io's, with its BuildKit) on wharf and on docker.
type buildRow struct {
	what   string
	values map[string]float64 // ms, by builder.name
}

// builder is a client and the engine that it talks to.
type builder struct {
	name string
	path string
	e    *engine
}

// steps20 is how many steps the Dockerfiles of steps have.
const steps20 = 20

// measureBuild is what builds cost.
func (b *bench) measureBuild() error {
	for _, e := range b.engines() {
		if err := b.cli(e, "load", "-q", "-i", filepath.Join(b.images, "golang.tar")); err != nil {
			return err
		}
	}
	for _, step := range []func([]builder) error{b.buildSteps, b.buildFiles, b.buildProgram} {
		if err := step(b.builders()); err != nil {
			return err
		}
	}
	return nil
}

// builders are those that are here. docker's client is the one that belongs to
// dockerd: it has BuildKit's client in it, also without the buildx plugin.
func (b *bench) builders() []builder {
	out := []builder{{"wharf build", filepath.Join(b.bin, "wharf"), b.wharf}}
	docker := ""
	if path, err := lookPath("dockerd"); err == nil {
		docker = filepath.Join(filepath.Dir(path), "../bin/docker")
	}
	if _, err := os.Stat(docker); err != nil {
		return out
	}
	out = append(out, builder{"docker build, wharf", docker, b.wharf})
	if b.dockerd != nil {
		out = append(out, builder{"docker build, docker", docker, b.dockerd})
	}
	return out
}

// build runs one and takes the time.
func (b *bench) build(w builder, args ...string) (float64, error) {
	cmd := exec.Command(w.path, append([]string{"build", "-q"}, args...)...)
	cmd.Env = append(b.env(w.e), "DOCKER_BUILDKIT=1")
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", w.name, err, out)
	}
	return float64(time.Since(begin).Microseconds()) / 1000, nil
}

func (b *bench) addBuild(what string, all map[string][]float64) {
	r := buildRow{what, map[string]float64{}}
	for name, v := range all {
		r.values[name] = median(v)
	}
	b.builds = append(b.builds, r)
	fmt.Fprintf(os.Stderr, "build: %-60s %v\n", what, r.values)
}

// buildSteps builds Dockerfiles of empty steps, new ones and known ones.
func (b *bench) buildSteps(all []builder) error {
	dir := filepath.Join(b.dir, "steps")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	write := func(n int, mark string) error {
		text := "FROM busybox\nENV MARK=" + mark + "\n"
		for i := range n {
			text += fmt.Sprintf("RUN true %d\n", i)
		}
		return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644)
	}
	each, cached := map[string][]float64{}, map[string][]float64{}
	for round := range max(3, b.rounds/4) {
		for i, w := range all {
			var took [2]float64
			for j, n := range []int{1, 1 + steps20} {
				if err := write(n, fmt.Sprintf("%d-%d-%d", round, i, j)); err != nil {
					return err
				}
				var err error
				if took[j], err = b.build(w, dir); err != nil {
					return err
				}
			}
			each[w.name] = append(each[w.name], (took[1]-took[0])/steps20)
			for range 3 {
				t, err := b.build(w, dir)
				if err != nil {
					return err
				}
				cached[w.name] = append(cached[w.name], t)
			}
		}
	}
	b.addBuild("one empty RUN step, new", each)
	b.addBuild(fmt.Sprintf("a Dockerfile of %d steps, all known", steps20+1), cached)
	return nil
}

// buildFiles sends and copies 10,000 files, then a few of them anew.
func (b *bench) buildFiles(all []builder) error {
	first, same, some := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for i, w := range all {
		dir := filepath.Join(b.dir, fmt.Sprintf("files%d", i))
		if err := manyFiles(dir); err != nil {
			return err
		}
		for round, to := range []map[string][]float64{first, same, some} {
			if round == 2 {
				for n := range 10 {
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d%d/f%d", n, n)), []byte("changed"), 0o644); err != nil {
						return err
					}
				}
			}
			t, err := b.build(w, dir)
			if err != nil {
				return err
			}
			to[w.name] = append(to[w.name], t)
		}
	}
	b.addBuild("COPY of 10,000 files", first)
	b.addBuild("the same again", same)
	b.addBuild("the same with 10 files changed", some)
	return nil
}

func manyFiles(dir string) error {
	for d := range 100 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for f := range 100 {
			text := strings.Repeat(dir+sub, 10)
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", f)), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM busybox\nCOPY . /files\n"), 0o644)
}

// buildProgram builds a Go program from source, builds it again after a
// change, and runs what came out.
func (b *bench) buildProgram(all []builder) error {
	cold, warm, run := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for i, w := range all {
		dir := filepath.Join(b.dir, fmt.Sprintf("program%d", i))
		if out, err := exec.Command("cp", "-r", "test/e2e/testdata/goprogram", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		// A cache of its own for each client of an engine.
		file := filepath.Join(dir, "Dockerfile")
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text = []byte(strings.ReplaceAll(string(text), "type=cache,", fmt.Sprintf("type=cache,id=c%d,", i)))
		if err := errors.Join(os.WriteFile(file, text, 0o644),
			os.WriteFile(filepath.Join(dir, "who.go"), fmt.Appendf(nil, "package main\n\nvar _ = %d\n", i), 0o644)); err != nil {
			return err
		}
		for round := range 4 {
			more := fmt.Appendf(nil, "package words\n\nvar _ = %d\n", round)
			if err := os.WriteFile(filepath.Join(dir, "words/more.go"), more, 0o644); err != nil {
				return err
			}
			ref := fmt.Sprintf("program%d:%d", i, round)
			t, err := b.build(w, "-t", ref, dir)
			if err != nil {
				return err
			}
			if round == 0 {
				cold[w.name] = append(cold[w.name], t)
			} else {
				warm[w.name] = append(warm[w.name], t)
			}
			begin := time.Now()
			if err := b.cli(w.e, "run", "--rm", "--network", "none", ref); err != nil {
				return err
			}
			run[w.name] = append(run[w.name], float64(time.Since(begin).Microseconds())/1000)
		}
	}
	b.addBuild("a Go program from source, Debian's Go, multi-stage", cold)
	b.addBuild("the same after a change (cache mount)", warm)
	b.addBuild("docker run of what was just built, no network", run)
	return nil
}

// buildReport is the section of the page.
func (b *bench) buildReport() string {
	if len(b.builds) == 0 {
		return ""
	}
	var s strings.Builder
	s.WriteString("## Builds\n\nMilliseconds, medians where a thing is done more than once. `docker build` is docker.io's client with DOCKER_BUILDKIT=1 on either engine.\n\n")
	b.machine(&s)
	s.WriteString("\n| what |")
	all := b.builders()
	for _, w := range all {
		s.WriteString(" " + w.name + " |")
	}
	s.WriteString(" docker / wharf |\n|---|" + strings.Repeat("---:|", len(all)+1) + "\n")
	for _, r := range b.builds {
		s.WriteString("| " + r.what + " |")
		for _, w := range all {
			fmt.Fprintf(&s, " %s |", amount(r.values[w.name], "ms"))
		}
		ratio := ""
		if d, ok := r.values["docker build, docker"]; ok && r.values["wharf build"] > 0 {
			ratio = fmt.Sprintf("%.1f", d/r.values["wharf build"])
		}
		s.WriteString(" " + ratio + " |\n")
	}
	return s.String()
}
