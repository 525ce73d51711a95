package step

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// Return codes by which a program lets a packet pass (include/uapi/linux/pkt_cls.h, bpf.h).
const (
	tcActOK = 0
	xdpPass = 2
)

func doEmptyBPF(c *call, a bundle.EmptyBPF) error {
	if _, ok := c.x.objects[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("object handle %q is taken", a.Handle)
	}
	spec := &ebpf.ProgramSpec{Name: bundle.EmptyProgram, License: "GPL"}
	verdict := int32(tcActOK)
	switch a.Hook {
	case bundle.HookTCIngress:
		spec.Type = ebpf.SchedCLS
	case bundle.HookXDPNative:
		spec.Type, verdict = ebpf.XDP, xdpPass
	default:
		return fmt.Errorf("no empty program for hook %q", a.Hook)
	}
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the memory lock limit: %w", err)
	}
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return refusedLoad(bundle.EmptyProgram, err)
	}
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{bundle.EmptyProgram: prog}, Maps: map[string]*ebpf.Map{}}
	c.x.objects[a.Handle] = coll
	c.undoHere("object "+a.Handle, func(undoing) error {
		delete(c.x.objects, a.Handle)
		coll.Close()
		return nil
	})
	return nil
}

func doCountRuns(c *call, a bundle.CountRuns) error {
	if !haveTicks {
		return fmt.Errorf("count runs: no time stamp counter is read on %s, only on amd64", runtime.GOARCH)
	}
	prog, err := c.x.loadedProgram(a.Handle, a.Program)
	if err != nil {
		return err
	}
	frame, err := a.Frame.Bytes()
	if err != nil {
		return err
	}
	t := testRunCall{prog: prog, frame: frame}
	return pinned(0, func() error {
		return realTime(func() error {
			return withoutSignals(func() error { return c.countRuns(&t, a) })
		})
	})
}

// realTime runs fn on the calling thread, which must be locked, before every program that is
// not of such a policy: threads of Go's own runtime, which wake up in step with the calls, would
// disturb each in the same way.
func realTime(fn func() error) error {
	before, err := unix.SchedGetAttr(0, 0)
	if err == nil {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0)
	}
	if err != nil {
		return fmt.Errorf("schedule in real time: %w", err)
	}
	return errors.Join(fn(), unix.SchedSetAttr(0, before, 0))
}

func (c *call) countRuns(t *testRunCall, a bundle.CountRuns) error {
	period, err := tickPeriod()
	if err != nil {
		return err
	}
	c.value(bundle.CountPeriod, float64(period))
	var least uint64
	for i, repeat := range a.Repeats {
		if i > 0 && least*uint64(repeat)/uint64(a.Repeats[i-1]) > period {
			return nil
		}
		least, err = c.leastTicks(t, a, repeat, period)
		if err != nil {
			return fmt.Errorf("count %d runs of %s: %w", repeat, a.Program, err)
		}
		c.value(fmt.Sprint(bundle.CountTicks, repeat), float64(least))
	}
	return nil
}

// longCall is the share of the clock's period from which on a call begins right after a tick.
const longCall = 8

// leastTicks is the least of calls with repeat runs.
func (c *call) leastTicks(t *testRunCall, a bundle.CountRuns, repeat uint32, period uint64) (uint64, error) {
	least, seen := uint64(math.MaxUint64), 0
	for try := 0; try < a.Tries && seen < bundle.CountSeen; try++ {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		if try > 0 && least > period/longCall {
			if _, err := awaitTick(); err != nil {
				return 0, err
			}
		}
		took, err := t.call(repeat, a.Want)
		switch {
		case err != nil:
			return 0, err
		case took < least:
			least, seen = took, 1
		case took == least:
			seen++
		}
	}
	return least, nil
}

// testRunCall calls BPF_PROG_TEST_RUN with nothing around it: package ebpf's own
// allocates memory at each call, which is sometimes more work and sometimes less.
type testRunCall struct {
	prog  *ebpf.Program
	frame []byte
}

// testRunAttr is the part of union bpf_attr for BPF_PROG_TEST_RUN
// (include/uapi/linux/bpf.h).
type testRunAttr struct {
	progFD, retval, dataSizeIn, dataSizeOut uint32
	dataIn, dataOut                         uint64
	repeat, duration, ctxSizeIn, ctxSizeOut uint32
	ctxIn, ctxOut                           uint64
	flags, cpu, batchSize, pad              uint32
}

// call times one system call, in ticks of the counter.
func (t *testRunCall) call(repeat, want uint32) (uint64, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&t.frame[0])
	attr := &testRunAttr{
		progFD: uint32(t.prog.FD()), dataSizeIn: uint32(len(t.frame)),
		dataIn: uint64(uintptr(unsafe.Pointer(&t.frame[0]))), repeat: repeat,
	}
	start := ticks()
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	took := ticks() - start
	if errno != 0 {
		return 0, errno
	}
	if attr.retval != want {
		return 0, fault.Subject("it returned %d, want %d", attr.retval, want)
	}
	return took, nil
}

const (
	// interrupted is how many ticks of the counter pass between two readings in a
	// row if there was an interrupt; without one there are a few dozen at the most.
	interrupted = 2000
	// tickLimit is far longer than any clock's tick, in ticks of the counter.
	tickLimit = 10_000_000_000
	// periods is how many times tickPeriod looks.
	periods = 8
)

// awaitTick returns right after an interrupt, with the counter as it was right before.
func awaitTick() (uint64, error) {
	begun := ticks()
	for last := begun; last-begun < tickLimit; {
		now := ticks()
		if now-last > interrupted {
			return last, nil
		}
		last = now
	}
	return 0, errors.New("the clock does not tick")
}

// tickPeriod is the time between two ticks of the clock: between two interrupts there
// may be less, since there are others, but never more.
func tickPeriod() (longest uint64, err error) {
	last, err := awaitTick()
	for range periods {
		var at uint64
		if err != nil {
			return 0, err
		}
		at, err = awaitTick()
		longest, last = max(longest, at-last), at
	}
	return longest, err
}
