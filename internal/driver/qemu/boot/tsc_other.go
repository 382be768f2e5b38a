//go:build !amd64

package boot

// rdtsc: no machine but amd64 is emulated with its host's counter.
func rdtsc() uint64 { return 0 }
