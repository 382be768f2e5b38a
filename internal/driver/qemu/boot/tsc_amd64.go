package boot

// rdtsc reads the time stamp counter (RDTSC).
func rdtsc() uint64
