package proc

import "time"

const (
	// UndoLimit bounds the time in which a helper undoes everything that it did.
	UndoLimit = 20 * time.Second
	// QuietLimit is what a quiet helper may keep in memory, garbage included, in bytes.
	// Past it the collector runs after all: better late than out of memory.
	QuietLimit = 256 << 20
)
