package proc

// QuietLimit is what a quiet helper may keep in memory, garbage included, in bytes.
// Past it the collector runs after all: better late than out of memory.
const QuietLimit = 256 << 20
