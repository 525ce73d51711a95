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
// that take the CPU make holes as well, up to 0.9 s beside twenty of them a CPU;
// whether those count is for who knows how long tasks waited for a CPU.
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
	// elapsedError is what netperf's seconds may be off by: it prints two places.
	elapsedError = 0.005
)

// Evidence is what one client's tool tells of the measured time itself.
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

// gapsShow says whether the tools are asked for what shows holes. Virtual time has
// none, and its programs run as they always did.
func gapsShow(cell plan.Cell) bool { return cell.Get(plan.FactorClock) != plan.ClockVirtual }

// holeLimit is how long a hole in a measured time must be to count.
func holeLimit(seconds float64) float64 { return max(leastHole, holeShare*seconds) }

// intervalOf is how often iperf3 reports, in seconds, to one place.
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
// wait long without anybody's fault, so all must have waited.
func HoleOf(clients []Evidence) Hole {
	if slices.ContainsFunc(clients, func(e Evidence) bool { return e.Hole.Why == "" }) {
		return Hole{}
	}
	return clients[0].Hole
}

// netperfEvidence: a client that is stopped within a transaction makes that one as
// long; one that is stopped between two spends that time in none.
func netperfEvidence(cell plan.Cell, data []byte) (Evidence, error) {
	values := keyvals(data)
	given := map[string]float64{}
	for key, most := range map[string]float64{
		"THROUGHPUT": mostRate, "MEAN_LATENCY": mostSeconds * 1e6, "P50_LATENCY": mostSeconds * 1e6, "P99_LATENCY": mostSeconds * 1e6,
		keyLongest: mostSeconds * 1e6, keyElapsed: mostSeconds,
	} {
		if values[key] == "" {
			continue // not asked for
		}
		var err error
		if given[key], err = number(key, values[key], most); err != nil {
			return Evidence{}, err
		}
	}
	rate, elapsed := given["THROUGHPUT"], given[keyElapsed]
	e := Evidence{Seconds: elapsed, Transactions: rate * max(0, elapsed-elapsedError)}
	if elapsed == 0 {
		e.Transactions = rate * cell.Duration(plan.FactorDuration).Seconds()
	}
	if n := cell.Int(plan.FactorCount); n > 0 {
		e.Transactions = float64(n)
	}
	if rate > 0 && elapsed > 0 {
		e.Hole = netperfHole(given)
	}
	return e, nil
}

// netperfHole judges netperf's figures, by key. A path on which every transaction
// takes long is slow and has no hole: what counts is longer than the median.
func netperfHole(given map[string]float64) Hole {
	rate, elapsed := given["THROUGHPUT"], given[keyElapsed]
	mean, p50, p99, longest := given["MEAN_LATENCY"]/1e6, given["P50_LATENCY"]/1e6, given["P99_LATENCY"]/1e6, given[keyLongest]/1e6
	if longest-p50 >= holeLimit(elapsed) {
		out := fmt.Sprintf("one transaction took %.3g s of the measured %.3g s, 99 of 100 at most %.3g s", longest, elapsed, p99)
		if mean > p99 {
			out += fmt.Sprintf(", which is less than the mean of %.3g s", mean)
		}
		return Hole{Seconds: longest, Why: out}
	}
	covered := rate * mean
	if covered > mostCovered {
		return Hole{Seconds: math.Inf(1), Why: fmt.Sprintf("the transactions add up to %.3g s of the measured %.3g s: the clock was set", covered*elapsed, elapsed)}
	}
	// At least this long took the slowest of 100, all together.
	if slow := rate * elapsed * (mean - p99); slow >= holeLimit(elapsed) {
		return Hole{Seconds: slow, Resent: true,
			Why: fmt.Sprintf("the mean of %.3g s is above what 99 of 100 transactions took, %.3g s: the others took %.3g s of the measured %.3g s", mean, p99, slow, elapsed)}
	}
	if open := elapsed * (1 - covered); mean > 0 && open >= max(leastHole, openShare*elapsed) {
		return Hole{Seconds: open, Why: fmt.Sprintf("%.3g s of the measured %.3g s lie outside all transactions", open, elapsed)}
	}
	return Hole{}
}

// iperfInterval is a part of the time of iperf3's client, of all its streams.
type iperfInterval struct {
	Sum struct {
		Start   figure `json:"start"`
		End     figure `json:"end"`
		Seconds figure `json:"seconds"`
		Bytes   figure `json:"bytes"`
		Omitted bool   `json:"omitted"`
	} `json:"sum"`
}

// part is a measured interval: seconds, and bytes that the client handed over.
type part struct{ start, end, bytes float64 }

func iperfEvidence(cell plan.Cell, data []byte) (Evidence, error) {
	r, err := readIperf(data)
	if err != nil {
		return Evidence{}, err
	}
	var e Evidence
	if e.Bytes, err = r.End.Received.Bytes.value("sum_received.bytes", mostBytes); err != nil {
		return e, err
	}
	if r.End.Sent == nil || !r.End.Sent.Seconds.given() {
		return e, nil
	}
	if e.Seconds, err = r.End.Sent.Seconds.value("sum_sent.seconds", mostSeconds); err != nil || !gapsShow(cell) {
		return e, err
	}
	parts, err := r.parts()
	if err == nil && len(parts) > 0 && e.Bytes > 0 {
		e.Hole = iperfHole(parts, e.Seconds, intervalOf(cell))
	}
	return e, err
}

// parts are the intervals after the warm-up.
func (r iperfReport) parts() ([]part, error) {
	var out []part
	for i, in := range r.Intervals {
		if in.Sum.Omitted || !in.Sum.Seconds.given() {
			continue
		}
		var p part
		for _, f := range []struct {
			to   *float64
			from figure
			key  string
			most float64
		}{{&p.start, in.Sum.Start, "start", mostSeconds}, {&p.end, in.Sum.End, "end", mostSeconds}, {&p.bytes, in.Sum.Bytes, "bytes", mostBytes}} {
			var err error
			if *f.to, err = f.from.value(fmt.Sprintf("%s of interval %d", f.key, i+1), f.most); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// iperfHole: a client that is stopped ends an interval late, one whose server is
// stopped has intervals with nothing in them. What is shown of the latter is up to
// an interval less than the hole.
func iperfHole(parts []part, seconds, every float64) Hole {
	limit, covered, bytes := holeLimit(seconds), 0.0, 0.0
	for _, p := range parts {
		covered += p.end - p.start
		bytes += p.bytes
		if late := p.end - p.start - every; late >= limit-every/2 {
			return Hole{Seconds: late, Why: fmt.Sprintf("an interval of the client took %.3g s instead of %.3g s", p.end-p.start, every)}
		}
	}
	if math.Abs(covered-seconds) >= limit {
		return Hole{Seconds: math.Abs(covered - seconds), Why: fmt.Sprintf("the client's intervals cover %.3g s of the measured %.3g s", covered, seconds)}
	}
	if bytes/covered*limit < buffered {
		return Hole{}
	}
	empty, longest := 0.0, 0.0
	for _, p := range parts {
		if p.bytes > emptyShare*bytes/covered*(p.end-p.start) {
			empty = 0
			continue
		}
		empty += p.end - p.start
		longest = max(longest, empty)
	}
	if longest > 0 && longest >= limit-every {
		return Hole{Seconds: longest, Why: fmt.Sprintf("nothing was sent for %.3g s of the measured %.3g s", longest, seconds)}
	}
	return Hole{}
}
