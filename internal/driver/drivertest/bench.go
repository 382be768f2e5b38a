package drivertest

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"time"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// Benchmarks runs what people wait for. The figures that count are the medians
// (p50-ms), and p10-ms on a machine that is not quiet.
func Benchmarks(b *testing.B, g Target) {
	b.Run("StartToRunning", func(b *testing.B) { benchStart(b, g) })
	b.Run("RunToReleased", func(b *testing.B) { benchRun(b, g) })
	b.Run("ExecTrue", func(b *testing.B) { benchExec(b, g) })
	b.Run("KillToReleased", func(b *testing.B) { benchStop(b, g) })
}

// median collects times.
type median []time.Duration

func (m *median) since(t time.Time) { *m = append(*m, time.Since(t)) }

func (m median) report(b *testing.B) {
	if len(m) == 0 {
		return
	}
	slices.Sort(m)
	b.ReportMetric(float64(m[len(m)/10].Microseconds())/1000, "p10-ms")
	b.ReportMetric(float64(m[len(m)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(m[len(m)*9/10].Microseconds())/1000, "p90-ms")
}

// startNow is Sandbox and Start.
func startNow(b *testing.B, d driver.Driver, x *model.Bundle) driver.Instance {
	sb, err := d.Sandbox(context.Background(), x)
	must(b, err)
	i, err := d.Start(context.Background(), x, sb)
	must(b, err)
	return i
}

func benchStart(b *testing.B, g Target) {
	var m median
	for b.Loop() {
		x := g.Bundle(b, "/bin/sleep", "100")
		t := time.Now()
		startNow(b, g.Driver, x)
		m.since(t)
		must(b, g.Driver.Release(context.Background(), x.ID))
	}
	m.report(b)
}

func benchRun(b *testing.B, g Target) {
	var m median
	for b.Loop() {
		x := g.Bundle(b, "/bin/true")
		t := time.Now()
		i := startNow(b, g.Driver, x)
		_, err := i.Wait(context.Background())
		must(b, err)
		must(b, g.Driver.Release(context.Background(), x.ID))
		m.since(t)
	}
	m.report(b)
}

func benchExec(b *testing.B, g Target) {
	x := g.Bundle(b, "/bin/sleep", "100")
	i := startNow(b, g.Driver, x)
	defer func() { must(b, g.Driver.Release(context.Background(), x.ID)) }()
	var m median
	for b.Loop() {
		t := time.Now()
		p, err := i.Exec(context.Background(), Exec("/bin/true"))
		must(b, err)
		drain(b, p.Stream())
		_, err = p.Wait(context.Background())
		must(b, err)
		_ = p.Stream().Close()
		m.since(t)
	}
	m.report(b)
}

func benchStop(b *testing.B, g Target) {
	var m median
	for b.Loop() {
		x := g.Bundle(b, "/bin/sleep", "100")
		i := startNow(b, g.Driver, x)
		t := time.Now()
		must(b, i.Signal(context.Background(), syscall.SIGKILL))
		_, err := i.Wait(context.Background())
		must(b, err)
		must(b, g.Driver.Release(context.Background(), x.ID))
		m.since(t)
	}
	m.report(b)
}
