package image

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// BenchmarkLoad loads an image whose one layer is the tar WHARF_BENCH_LAYER,
// gzipped when WHARF_BENCH_GZIP is set.
func BenchmarkLoad(b *testing.B) {
	p := os.Getenv("WHARF_BENCH_LAYER")
	if p == "" {
		b.Skip("set WHARF_BENCH_LAYER to a tar, such as mmdebstrap writes")
	}
	path := b.TempDir() + "/a.tar"
	func() {
		layer, err := os.ReadFile(p)
		must(b, err)
		img := testImage{layers: [][]byte{layer}, gzip: os.Getenv("WHARF_BENCH_GZIP") != ""}
		must(b, os.WriteFile(path, img.dockerTar(b, "big:1"), 0o644))
	}()
	debug.FreeOSMemory()
	for b.Loop() {
		ts := open(b, b.TempDir())
		f, err := os.Open(path)
		must(b, err)
		stop, peak := make(chan struct{}), make(chan uint64)
		go sampleHeap(stop, peak)
		start := time.Now()
		must(b, ts.Load(b.Context(), f, nil, true, nil))
		b.ReportMetric(time.Since(start).Seconds(), "s/load")
		close(stop)
		b.ReportMetric(float64(<-peak)/(1<<20), "MiB-peak")
		f.Close()
	}
}

// sampleHeap tells the largest heap in use until stop.
func sampleHeap(stop chan struct{}, peak chan uint64) {
	var top uint64
	for {
		select {
		case <-stop:
			peak <- top
			return
		case <-time.After(20 * time.Millisecond):
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			top = max(top, m.HeapInuse)
		}
	}
}
