package workload

import (
	"math"
	"testing"
)

// fuzzTool holds the parser of a tool's output to this: what it takes are finite numbers that are not
// negative, each named once.
func fuzzTool(f *testing.F, parse func(data []byte, alone bool) ([]Metric, error), seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, alone bool) {
		metrics, err := parse(data, alone)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, m := range metrics {
			if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) || m.Value < 0 || m.Name == "" || m.Unit == "" || seen[m.Name] {
				t.Errorf("%+v among %+v", m, metrics)
			}
			seen[m.Name] = true
		}
	})
}

func FuzzIperf3(f *testing.F) {
	fuzzTool(f, parseIperf,
		`{"end": {"sum_sent": {"bits_per_second": 9e9, "retransmits": 3}, "sum_received": {"bits_per_second": 8e9}, "streams": [{"sender": {"mean_rtt": 40}, "receiver": {"bits_per_second": 8e9}}]}}`,
		`{"error": "unable to connect"}`, `{"end": {"sum_received": {"bits_per_second": -1}}}`, `{"end": {"sum_received": {"bits_per_second": 1e400}}}`, `{"end": {"sum_received": null, "streams": [{}]}}`, `[]`)
}

func FuzzNetperf(f *testing.F) {
	fuzzTool(f, parseNetperf, "THROUGHPUT=850\nMEAN_LATENCY=1176\nP50_LATENCY=1170\nP90_LATENCY=1180\nP99_LATENCY=1200\n",
		"THROUGHPUT=nan\n", "THROUGHPUT=1e999\nMEAN_LATENCY=-3\n", "MIGRATED TCP\nTHROUGHPUT=\n", "=\n=\n")
}

func FuzzH2load(f *testing.F) {
	fuzzTool(f, parseH2load, h2load(4, served()...), h2load(4, "1016000\t200\tnan\n"), h2load(4, "inf\t200\t4000\n"), "requests: 1 total\n")
}
