package proc

import "time"

const (
	// UndoLimit bounds the time in which a helper undoes everything that it did.
	UndoLimit = 20 * time.Second
	// TracerLimit is how much longer it may take while calls are recorded: to end that, the kernel
	// changes the code of every function, which takes an emulated machine minutes.
	TracerLimit = 4 * time.Minute
	// QuietLimit is what a quiet helper may keep in memory, garbage included, in bytes.
	// Past it the collector runs after all: better late than out of memory.
	QuietLimit = 256 << 20
)
