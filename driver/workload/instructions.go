package workload

import (
	"io/fs"

	"hookbed/driver/plan"
)

// instructions is what one unit of a workload's work takes in executed instructions, of
// a trial in virtual time: of one transaction, or of one MiB received. Time is
// instructions there, but for the time in which the machine had nothing to do.
func (w workload) instructions(cell plan.Cell, raw fs.FS, metrics []Metric) ([]Metric, error) {
	if cell.Get(plan.FactorClock) != plan.ClockVirtual {
		return nil, nil
	}
	busy, err := busyShare(Measured(cell, metrics), raw)
	if err != nil {
		return nil, err
	}
	perSecond := busy * 1e9 / plan.InstructionNanoseconds
	for _, m := range metrics {
		if m.Name != w.amount || m.Value <= 0 {
			continue
		}
		units := m.Value // a second
		if w.Work.Bytes > 0 {
			units = m.Value / 8 / w.Work.Bytes // the amount is in bit/s
		}
		return []Metric{{w.Work.Instructions, "1", perSecond / units}}, nil
	}
	return nil, nil
}

// busyShare is the share of the measured time in which the machine was not
// idle. The snapshots enclose more than that - programs start, netperf's
// TCP_CRR waits four seconds for its peer - so idle time counts only as far as it is
// longer than what surrounds the measurement, which took the seconds given.
func busyShare(measured float64, raw fs.FS) (float64, error) {
	a, err := readActivity(raw, rawClientBefore)
	if err != nil {
		return 0, err
	}
	b, err := readActivity(raw, rawClientAfter)
	if err != nil {
		return 0, err
	}
	around := float64(b.UnixNano-a.UnixNano)/1e9 - measured
	idle := b.CPU["idle"] + b.CPU["iowait"] - a.CPU["idle"] - a.CPU["iowait"]
	return 1 - max(0, idle-around)/measured, nil
}
