package workload

import (
	"fmt"
	"io/fs"
	"math"
	"slices"

	"hookbed/driver/plan"
)

// A hole is a part of the measured time in which a client did nothing: it, or what
// it talked to, was stopped. Its number then says something else than the path's
// speed. A retransmission timeout (0.2 s, as Linux has RFC 6298) is none. Programs
// that take the CPU make holes as well, up to 0.9 s next to twenty of them a CPU;
// whether those count is decided where it is known how long tasks waited for a CPU.
const (
	leastHole = 0.4  // s; of this length it counts,
	holeShare = 0.05 // where it is this share of the measured time, too
	// openShare of the measured time must lie outside all transactions to be a hole,
	// because a client spends time of its own between them.
	openShare = 0.25
	// emptyShare of the mean rate is as good as nothing, for a client that passes
	// more in the time of a hole than socket buffers hold (net.ipv4.tcp_wmem is 4 MiB,
	// tcp_rmem 6 MiB): a slower one waits that long for its buffer to empty.
	emptyShare = 0.01
	buffered   = 16 << 20 // bytes
	// mostCovered is how much of the measured time the transactions of one connection
	// may add up to; more means that the clock was set.
	mostCovered = 1.25
	// intervals is about how many of them a trial's time is parted into, leastInterval
	// the shortest that iperf3 takes. With a long warm-up no more than mostIntervals are
	// reported, because what a tool prints is kept up to a limit.
	intervals     = 20
	mostIntervals = 60
	leastInterval = 0.1
	// elapsedError is what netperf's seconds may be off by: it prints two decimals.
	elapsedError = 0.005
)

// Evidence is what one client's tool reports of the measured time itself.
type Evidence struct {
	Seconds      float64 // that the tool measured; 0 where it does not say
	Bytes        float64 // received, at least
	Transactions float64 // at least
	Hole         Hole
}

// Hole is a part of the measured time in which nothing was done; without a Why there
// is none.
type Hole struct {
	Seconds float64
	Why     string
	// Resent: segments that were lost and sent again look the same.
	Resent bool
}

// gapsShow says whether the tools report what shows holes. Virtual time has
// none, and its programs run as they always did.
func gapsShow(cell plan.Cell) bool { return cell.Get(plan.FactorClock) != plan.ClockVirtual }

// holeLimit is how long a hole in a measured time must be to count.
func holeLimit(seconds float64) float64 { return max(leastHole, holeShare*seconds) }

// intervalOf is how often iperf3 reports, in seconds, to one decimal.
func intervalOf(cell plan.Cell) float64 {
	measured := cell.Duration(plan.FactorDuration).Seconds()
	all := measured + cell.Duration(plan.FactorWarmup).Seconds()
	return max(leastInterval, math.Ceil(10*max(measured/intervals, all/mostIntervals))/10)
}

// Evidences are those of a trial's clients, from its raw files.
func Evidences(cell plan.Cell, raw fs.FS) ([]Evidence, error) {
	w, err := find(cell)
	if err != nil {
		return nil, err
	}
	clients := max(1, cell.Int(plan.FactorClients))
	out := make([]Evidence, clients)
	for k := range clients {
		data, err := fs.ReadFile(raw, rawOf(cell, k))
		if err != nil {
			return nil, fmt.Errorf("read result of %s: %w", w.Name, err)
		}
		if out[k], err = w.evidence(cell, data); err != nil {
			return nil, fmt.Errorf("parse %s output of %s: %w", rawOf(cell, k), w.Name, err)
		}
	}
	return out, nil
}

// HoleOf is the hole in a trial. Of several clients that share what there is, one may
// wait long through no fault, so all must have waited.
func HoleOf(clients []Evidence) Hole {
	if slices.ContainsFunc(clients, func(e Evidence) bool { return e.Hole.Why == "" }) {
		return Hole{}
	}
	return clients[0].Hole
}
