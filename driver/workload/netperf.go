package workload

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Metrics of netperf.
const (
	metricRate        = "rate"
	metricLatencyMean = "latency_mean"
	metricLatency50   = "latency_p50"
	metricLatency90   = "latency_p90"
	metricLatency99   = "latency_p99"

	instructionsPerTransaction = "instructions_per_transaction"
)

// selector is one of netperf's keys (-k) and the metric it becomes.
type selector struct {
	key, metric, unit string
	scale, most       float64 // most in netperf's own unit
}

// netperfSelectors are the keys that become metrics. Latencies come in
// microseconds and only with -j.
func netperfSelectors() []selector {
	return []selector{
		{"THROUGHPUT", metricRate, "1/s", 1, mostRate},
		{"MEAN_LATENCY", metricLatencyMean, "s", 1e-6, mostSeconds * 1e6},
		{"P50_LATENCY", metricLatency50, "s", 1e-6, mostSeconds * 1e6},
		{"P90_LATENCY", metricLatency90, "s", 1e-6, mostSeconds * 1e6},
		{"P99_LATENCY", metricLatency99, "s", 1e-6, mostSeconds * 1e6},
	}
}

// Keys that become no metric: they show whether the client ran all the time.
const (
	keyLongest = "MAX_LATENCY"  // us
	keyElapsed = "ELAPSED_TIME" // s, to two decimals
)

// requestResponse is the study's measure of latency.
func requestResponse() workload {
	w := netperf("TCP_RR", "netperf, one-byte request and response on one connection; transactions a second and their latency")
	w.Headline = []catalog.Metric{{Name: metricLatencyMean, Title: "latency", Unit: "s"}, {Name: metricLatency50, Title: "median latency", Unit: "s"}, rate("transaction rate")}
	w.Metrics = slices.Concat(latencies(metricLatency90, metricLatency99), sharing(metricRate, "1/s"))
	w.Work = catalog.Work{Name: "transaction", Instructions: instructionsPerTransaction, Packets: 2} // acknowledgements ride on them
	w.Figure, w.Study = "latency", map[string]string{plan.Localhost: "6", plan.MultiHost: "8"}
	return w
}

// connectRequestResponse has no headline of time: its latency is that of the
// request alone.
func connectRequestResponse() workload {
	w := netperf("TCP_CRR", "netperf, connect, request, response, close; connections a second")
	w.Headline = []catalog.Metric{rate("connection rate")}
	w.Metrics = slices.Concat(latencies(metricLatencyMean, metricLatency50, metricLatency90, metricLatency99), sharing(metricRate, "1/s"))
	w.Work = catalog.Work{Name: "connection", Instructions: instructionsPerTransaction}
	w.Figure = "crr-rate"
	return w
}

func rate(title string) catalog.Metric {
	return catalog.Metric{Name: metricRate, Title: title, Unit: "1/s", Higher: true}
}

func latencies(names ...string) (out []catalog.Metric) {
	for _, name := range names {
		out = append(out, catalog.Metric{Name: name, Unit: "s"})
	}
	return out
}

// netperf is a test of netperf's over TCP.
func netperf(test, doc string) workload {
	return workload{
		WorkloadEntry: plan.WorkloadEntry{Name: test, Doc: doc, Protocol: catalog.TCP, Tool: "netperf", Counts: true},
		raw:           ".txt",
		amount:        metricRate,
		combine:       map[string]combine{metricLatencyMean: weighted, metricLatency50: largest, metricLatency90: largest, metricLatency99: largest},
		server: func(t Target, port int) []string {
			return []string{"netserver", "-D", t.family(), "-p", strconv.Itoa(port)}
		},
		warmup: func(t Target, c Client, cell plan.Cell) []string {
			return netperfClient(test, t, c, cell, wholeSeconds(cell, plan.FactorWarmup))
		},
		client: func(t Target, c Client, cell plan.Cell) []string {
			length := wholeSeconds(cell, plan.FactorDuration)
			if n := cell.Get(plan.FactorCount); n != "" {
				length = "-" + n // netperf's way to say transactions
			}
			return netperfClient(test, t, c, cell, length)
		},
		parse: parseNetperf, evidence: netperfEvidence,
		turns: bundle.SchedRR,
	}
}

// netperfClient runs for a length in seconds or, negative, in transactions.
func netperfClient(test string, t Target, c Client, cell plan.Cell, length string) []string {
	var keys []string
	for _, s := range netperfSelectors() {
		keys = append(keys, s.key)
	}
	if gapsShow(cell) {
		keys = append(keys, keyLongest, keyElapsed)
	}
	return []string{
		"netperf", t.family(), "-H", t.ServerAddr, "-p", strconv.Itoa(t.ControlPort), "-t", test, "-l", length, "-j",
		"--", "-P", "," + strconv.Itoa(c.Port), "-k", strings.Join(keys, ","),
	}
}

// keyvals are what netperf -k printed, by key.
func keyvals(data []byte) map[string]string {
	values := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = v
		}
	}
	return values
}

func parseNetperf(data []byte, alone bool) ([]Metric, error) {
	values := keyvals(data)
	var out []Metric
	for _, s := range netperfSelectors() {
		v, err := number(s.key, values[s.key], s.most)
		if err == nil && alone && v == 0 {
			err = fmt.Errorf("%s is %q, want a positive number", s.key, values[s.key])
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Metric{s.metric, s.unit, v * s.scale})
	}
	return out, nil
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
			continue // not requested
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
