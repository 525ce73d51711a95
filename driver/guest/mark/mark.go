// Package mark sets marks that an observer of the machine's instructions sees, and nothing else
// does: a few instructions, the same whether there is an observer or not. In sealed guests they
// are always there, so that a guest that is observed executes what any other does.
package mark

import (
	"runtime"
	"unsafe"
)

// What a mark is for. The numbers are those of package watch in the driver, and of its plugin.
const (
	begin   = 1
	end     = 2
	symbols = 3
	closing = 4
)

// Begin says that the measured part of a trial begins: the trial's place in the sealed block.
func Begin(setup, trial int) { set(begin, uint64(setup), uint64(trial)) }

// End says that it ends.
func End(setup, trial int) { set(end, uint64(setup), uint64(trial)) }

// Symbols shows the text of /proc/kallsyms, which may be empty.
func Symbols(kallsyms []byte) {
	set(symbols, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(kallsyms)))), uint64(len(kallsyms)))
	runtime.KeepAlive(kallsyms)
}

// Close says that no mark follows.
func Close() { set(closing, 0, 0) }
