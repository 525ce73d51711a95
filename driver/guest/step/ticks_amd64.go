package step

// haveTicks: this processor has a counter that ticks reads.
const haveTicks = true

// ticks reads the time stamp counter (RDTSC). In virtual time it is exact at each
// instruction.
func ticks() uint64
