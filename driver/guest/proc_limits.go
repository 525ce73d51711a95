package main

import "time"

const (
	// undoLimit bounds the time in which a helper undoes everything that it did.
	undoLimit = 20 * time.Second
	// quietLimit is what a quiet helper may keep in memory, garbage included, in bytes.
	// Past it the collector runs after all: better late than out of memory.
	quietLimit = 256 << 20
)
