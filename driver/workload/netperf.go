package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// netperf's keyval selectors (-k) and the metrics they become. Latencies come
// in microseconds and only with -j.
func netperfSelectors() []struct {
	key, metric, unit string
	scale             float64
} {
	return []struct {
		key, metric, unit string
		scale             float64
	}{
		{"THROUGHPUT", "rate", "1/s", 1},
		{"MEAN_LATENCY", "latency_mean", "s", 1e-6},
		{"P50_LATENCY", "latency_p50", "s", 1e-6},
		{"P90_LATENCY", "latency_p90", "s", 1e-6},
		{"P99_LATENCY", "latency_p99", "s", 1e-6},
	}
}

// requestResponse is the study's measure of latency.
func requestResponse() workload {
	w := netperf("TCP_RR", "netperf, one-byte request and response on one connection; transactions a second and their latency")
	w.Headline = []catalog.Metric{{Name: "latency_mean", Title: "latency", Unit: "s"}, {Name: "latency_p50", Title: "median latency", Unit: "s"}, rate("transaction rate")}
	w.Metrics = slices.Concat(latencies("latency_p90", "latency_p99"), sharing("rate", "1/s"))
	w.Work = catalog.Work{Name: "transaction", Instructions: instructionsPerTransaction, Packets: 2} // acknowledgements ride on them
	w.Figure, w.Study = "latency", map[string]string{plan.Localhost: "6", plan.MultiHost: "8"}
	return w
}

// connectRequestResponse has no headline of time: its latency is that of the
// request alone.
func connectRequestResponse() workload {
	w := netperf("TCP_CRR", "netperf, connect, request, response, close; connections a second")
	w.Headline = []catalog.Metric{rate("connection rate")}
	w.Metrics = slices.Concat(latencies("latency_mean", "latency_p50", "latency_p90", "latency_p99"), sharing("rate", "1/s"))
	w.Work = catalog.Work{Name: "connection", Instructions: instructionsPerTransaction}
	w.Figure = "crr-rate"
	return w
}

func rate(title string) catalog.Metric {
	return catalog.Metric{Name: "rate", Title: title, Unit: "1/s", Higher: true}
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
		WorkloadEntry: plan.WorkloadEntry{Name: test, Doc: doc, Protocol: catalog.TCP, Tool: "netperf"},
		raw:           ".txt",
		server: func(t Target, port int) []string {
			return []string{"netserver", "-D", t.family(), "-p", strconv.Itoa(port)}
		},
		warmup: func(t Target, c Client, cell plan.Cell) []string {
			return netperfClient(test, t, c, wholeSeconds(cell, plan.FactorWarmup))
		},
		client: func(t Target, c Client, cell plan.Cell) []string {
			return netperfClient(test, t, c, wholeSeconds(cell, plan.FactorDuration))
		},
		parse: parseNetperf,
		turns: bundle.SchedRR,
	}
}

func netperfClient(test string, t Target, c Client, seconds string) []string {
	var keys []string
	for _, s := range netperfSelectors() {
		keys = append(keys, s.key)
	}
	return []string{
		"netperf", t.family(), "-H", t.ServerAddr, "-p", strconv.Itoa(t.ControlPort), "-t", test, "-l", seconds, "-j",
		"--", "-P", "," + strconv.Itoa(c.Port), "-k", strings.Join(keys, ","),
	}
}

func parseNetperf(data []byte, alone bool) ([]Metric, error) {
	values := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = v
		}
	}
	var out []Metric
	for _, s := range netperfSelectors() {
		v, err := strconv.ParseFloat(values[s.key], 64)
		if err != nil || v < 0 || alone && v == 0 {
			return nil, fmt.Errorf("%s is %q, want a positive number", s.key, values[s.key])
		}
		out = append(out, Metric{s.metric, s.unit, v * s.scale})
	}
	return out, nil
}
