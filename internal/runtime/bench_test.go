package runtime_test

import (
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"wharf/internal/runtime"
)

// BenchmarkStart is a container's life from prepared data: namespaces made,
// root mounted, process started, ended and reaped. p50-ms is the median of
// Create and Start.
func BenchmarkStart(b *testing.B) {
	needRoot(b)
	bun := bundle(b, "/bin/true")
	p := prepared(b, bun)
	var times []float64
	for b.Loop() {
		_ = os.RemoveAll(filepath.Join(bun.Rootfs.Work, "work"))
		at := time.Now()
		proc, err := runtime.Create(p, runtime.Files{})
		if err != nil {
			b.Fatal(err)
		}
		if err := proc.Start(); err != nil {
			b.Fatal(err)
		}
		times = append(times, float64(time.Since(at).Microseconds())/1000)
		if st, err := proc.Wait(); err != nil || st.ExitStatus() != 0 {
			b.Fatal(st, err)
		}
		_ = proc.Close()
	}
	sort.Float64s(times)
	b.ReportMetric(times[len(times)/2], "p50-ms")
}

func BenchmarkExec(b *testing.B) {
	needRoot(b)
	bun := bundle(b, "sleep", "1000")
	proc := started(b, bun)
	p := preparedExec(b, bun, execSpec("/bin/true"))
	var times []float64
	for b.Loop() {
		at := time.Now()
		e, err := runtime.Exec(proc.Pid, p, runtime.Files{})
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Start(); err != nil {
			b.Fatal(err)
		}
		times = append(times, float64(time.Since(at).Microseconds())/1000)
		_, _ = e.Wait()
		_ = e.Close()
	}
	sort.Float64s(times)
	b.ReportMetric(times[len(times)/2], "p50-ms")
}
