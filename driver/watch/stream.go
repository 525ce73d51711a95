// Package watch observes every instruction of a sealed guest without changing one: a plugin of
// QEMU's emulator writes a stream of the blocks that were executed between two marks, and this
// package builds the plugin and decodes its stream.
package watch

// Kind is how a translation block ends, as far as the order of calls depends on it.
type Kind uint8

// Kinds of a block's last instruction.
const (
	None      Kind = iota
	Call           // call to a fixed address
	Return         // ret
	IReturn        // iret: return from an interrupt or exception
	Jump           // jump to a fixed address
	Branch         // conditional jump
	Syscall        // syscall
	Sysret         // return from a system call
	Halt           // hlt
	JumpAny        // jump to an address in a register or in memory: tail calls, jump tables
	CallAny        // call to an address in a register or in memory
	ReadClock      // rdtsc, rdtscp
	kinds          // how many there are; not one itself
)

// Block is a translation block: instructions that are executed one after the other, unless a fault
// ends it early. The same instructions may be several blocks. A block is of one window: no ID occurs
// in two.
type Block struct {
	ID   uint32  // they count from 0 in the order in which blocks run first
	PC   uint64  // address of its first instruction
	Size []uint8 // length of each instruction in bytes
	Code []byte  // of blocks in user space: the instructions' bytes; else nil
	Kind Kind
}

// StackAccess is where the last instruction of a block wrote or read a return address.
type StackAccess struct {
	Kind    Kind // Call, CallAny: written; Return, IReturn: read
	Address uint64
}

// MarkID says what a mark is for.
type MarkID uint8

// Marks that the guest helper sets.
const (
	MarkBegin   MarkID = 1 // the measured part begins
	MarkEnd     MarkID = 2 // it ends
	MarkSymbols MarkID = 3 // /proc/kallsyms is in the guest's memory
	MarkClose   MarkID = 4 // nothing is measured any more: the stream ends
)

// Handler is called for what the stream says, in its order.
type Handler interface {
	// Define is called once for a block, before it runs first.
	Define(b *Block)
	// Ran is called when a block has ended: it executed its first n instructions (all of them, or
	// fewer, perhaps none, after a fault, which does not count the instruction that faulted). stack
	// is valid during the call only, and holds at most one access.
	Ran(b *Block, n int, stack []StackAccess)
	// Clock is called after a block that ended with ReadClock: ns of virtual time since the boot,
	// this last instruction included.
	Clock(ns uint64)
	// Mark is called at a mark; a and b are its arguments (setup and trial), ns the guest's clock.
	// The blocks between MarkBegin and MarkEnd are the window: as many instructions as the clock
	// advances in between, less the time in which the guest was halted. It is called for these two.
	Mark(id MarkID, a, b int64, ns uint64)
	// Symbols is called with a copy of the guest's /proc/kallsyms, before MarkBegin: what the trial
	// needs is loaded then.
	Symbols(kallsyms []byte)
}
