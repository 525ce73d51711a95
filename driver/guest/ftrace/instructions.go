package ftrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// InstructionCount counts what processes execute in the kernel, softirqs in their context included.
type InstructionCount struct {
	// Why nothing is counted; "" if something is.
	Why    string
	event  event
	opened []int // file descriptors
	ended  bool
}

// event is what a counter counts (perf_event_open(2)).
type event struct {
	kind   uint32
	config uint64
}

// CountInstructions begins a count, of no process yet.
func CountInstructions() *InstructionCount {
	return count(event{unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS})
}

func count(e event) *InstructionCount {
	n := &InstructionCount{event: e}
	fd, err := n.open(0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		n.Why = fmt.Sprintf("instructions are not counted: this machine has no counter of them that perf can use (%v)", err)
	case err != nil:
		n.Why = fmt.Sprintf("instructions are not counted: perf_event_open: %v", err)
	default:
		_ = unix.Close(fd)
	}
	return n
}

// open counts a process and all that it starts from now on; 0 is this thread.
func (n *InstructionCount) open(pid int) (int, error) {
	attr := unix.PerfEventAttr{Type: n.event.kind, Config: n.event.config, Bits: unix.PerfBitInherit | unix.PerfBitExcludeUser | unix.PerfBitExcludeHv}
	attr.Size = uint32(unsafe.Sizeof(attr))
	return unix.PerfEventOpen(&attr, pid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

// Add counts a process too, and what it starts.
func (n *InstructionCount) Add(pid int) error {
	if n.Why != "" {
		return nil
	}
	fd, err := n.open(pid)
	if err != nil {
		return fmt.Errorf("count the instructions of process %d: %w", pid, err)
	}
	n.opened = append(n.opened, fd)
	return nil
}

// End ends the count.
func (n *InstructionCount) End() (Record, error) {
	if n.ended || n.Why != "" {
		return Record{}, nil
	}
	n.ended = true
	total, errs := uint64(0), []error{}
	for _, fd := range n.opened {
		var data [8]byte
		if _, err := unix.Read(fd, data[:]); err != nil {
			errs = append(errs, fmt.Errorf("read a counter: %w", err))
		}
		total += binary.NativeEndian.Uint64(data[:])
		errs = append(errs, unix.Close(fd))
	}
	return Record{Values: map[string]float64{bundle.ValueKernelInstructions: float64(total)}}, errors.Join(errs...)
}
