package boot

import (
	"sync"
	"time"
)

// tscTime is how long the frequency is measured: two readings of both clocks
// are some hundred nanoseconds apart, so that the error is below 20 ppm.
const tscTime = 20 * time.Millisecond

// TSCKHz is the frequency of this machine's time stamp counter, which an
// emulated guest sees as its own. It is measured once; 0 where there is none.
var TSCKHz = sync.OnceValue(func() int {
	t0, c0 := reading()
	time.Sleep(tscTime)
	t1, c1 := reading()
	d := t1.Sub(t0)
	if c1 <= c0 || d <= 0 {
		return 0
	}
	return int(float64(c1-c0) / d.Seconds() / 1000)
})

// reading reads both clocks at one moment: the closest of some tries, since
// this thread may be interrupted between the two.
func reading() (at time.Time, count uint64) {
	best := ^uint64(0)
	for range 16 {
		before := rdtsc()
		t := time.Now()
		after := rdtsc()
		if after-before < best {
			best, at, count = after-before, t, before+(after-before)/2
		}
	}
	return at, count
}
