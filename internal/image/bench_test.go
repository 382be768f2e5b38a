package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"
)

// BenchmarkLoad loads an image whose one layer is the tar WHARF_BENCH_LAYER.
func BenchmarkLoad(b *testing.B) {
	p := os.Getenv("WHARF_BENCH_LAYER")
	if p == "" {
		b.Skip("set WHARF_BENCH_LAYER to a tar, such as mmdebstrap writes")
	}
	layer, err := os.ReadFile(p)
	must(b, err)
	archive := testImage{layers: [][]byte{layer}, gzip: os.Getenv("WHARF_BENCH_GZIP") != ""}.dockerTar(b, "big:1")
	path := b.TempDir() + "/a.tar"
	must(b, os.WriteFile(path, archive, 0o644))
	layer, archive = nil, nil
	runtime.GC()
	for b.Loop() {
		ts := open(b, b.TempDir())
		f, err := os.Open(path)
		must(b, err)
		start := time.Now()
		must(b, ts.Load(b.Context(), f, nil, true, nil))
		took := time.Since(start)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(took.Seconds(), "s/load")
		b.ReportMetric(float64(m.HeapSys)/(1<<20), "MiB-heap")
		f.Close()
	}
	f, _ := os.Open(path)
	h := sha256.New()
	start := time.Now()
	_, _ = io.Copy(h, f)
	fmt.Fprintln(io.Discard, hex.EncodeToString(h.Sum(nil)))
	b.ReportMetric(time.Since(start).Seconds(), "s/sha256")
	_ = bytes.MinRead
}
