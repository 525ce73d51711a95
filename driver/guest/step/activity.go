package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/proc"
)

func doSnapshot(c *call, a bundle.Snapshot) error {
	if a.Out == "" {
		return errors.New("snapshot without a file name")
	}
	act, err := proc.ReadActivity()
	if err != nil {
		return err
	}
	if !c.x.quiet {
		if act.MonoNano, err = proc.Nanoseconds(unix.CLOCK_MONOTONIC); err != nil {
			return err
		}
		if data, err := os.ReadFile(bundle.PressureFile); err == nil { // not every kernel has it
			act.Waited = bundle.ParseWaited(string(data))
		}
	}
	data, err := json.Marshal(act)
	if err != nil {
		return fmt.Errorf("encode activity: %w", err)
	}
	c.raw[a.Out] = string(data) + "\n"
	return nil
}

// readClock answers with what both clocks say; one is read between two reads of the
// other, so that both are of one time even where the process has to wait in between.
func readClock() bundle.Reply {
	var at [3]int64
	var err error
	for i, clock := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC} {
		if at[i], err = proc.Nanoseconds(clock); err != nil {
			return failed(err)
		}
	}
	return bundle.Reply{Clock: &bundle.Clock{Mono: at[0] + (at[2]-at[0])/2, Real: at[1]}}
}
