package workload

import (
	"io/fs"

	"hookbed/driver/plan"
)

// Metrics of instructions per unit of work, in virtual time.
const (
	instructionsPerTransaction = "instructions_per_transaction"
	instructionsPerMiB         = "instructions_per_mib"
)

// instructions says what the metrics of a trial in virtual time come to in
// executed instructions: of one transaction, or of one MiB received. Time is
// instructions there, but for the time in which the machine had nothing to do.
func instructions(cell plan.Cell, raw fs.FS, metrics []Metric) ([]Metric, error) {
	if cell.Get(plan.FactorClock) != plan.ClockVirtual {
		return nil, nil
	}
	busy, err := busyShare(Measured(cell, metrics), raw)
	if err != nil {
		return nil, err
	}
	perSecond := busy * 1e9 / plan.InstructionNanoseconds
	for _, m := range metrics {
		switch {
		case m.Name == "rate" && m.Value > 0:
			return []Metric{{instructionsPerTransaction, "1", perSecond / m.Value}}, nil
		case m.Name == "throughput" && m.Value > 0:
			return []Metric{{instructionsPerMiB, "1", perSecond / (m.Value / 8 / (1 << 20))}}, nil
		}
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
