package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// lines are netperf's as it printed them in a second each, in 2 CPUs' namespaces.
func lines(rate, mean, p99, longest, elapsed string) string {
	return fmt.Sprintf("THROUGHPUT=%s\nMEAN_LATENCY=%s\nP50_LATENCY=11\nP90_LATENCY=13\nP99_LATENCY=%s\nMAX_LATENCY=%s\nELAPSED_TIME=%s\n", rate, mean, p99, longest, elapsed)
}

// TestNetperfHoles holds what was measured with a client that was stopped for half a
// second (SIGSTOP), and without, next to up to 20 busy programs a CPU: there the mean
// is above the 99th percentile, too (the second of the honest ones), because fewer
// than one transaction in 100 meets another program, and that takes long.
func TestNetperfHoles(t *testing.T) {
	for _, tc := range []struct {
		what, workload, text, want string
	}{
		{"busy", "TCP_RR", lines("10974.23", "90.62", "1125", "189118", "1.00"), ""},
		{"busy, mean above p99", "TCP_RR", lines("27784.35", "35.90", "34", "62649", "1.01"), ""},
		{"busy", "TCP_RR", lines("7225.21", "138.30", "3633", "52067", "1.00"), ""},
		{"busy", "TCP_CRR", lines("9606.16", "104.02", "1475", "32873", "1.01"), ""},
		{"stopped", "TCP_RR", lines("53726.21", "18.55", "15", "502423", "1.00"), "one transaction took 0.502 s of the measured 1 s, 99 of 100 at most 1.5e-05 s, which is less than the mean"},
		{"stopped, busy", "TCP_RR", lines("6190.07", "161.45", "2100", "509930", "1.00"), "one transaction took 0.51 s"},
		{"stopped", "TCP_CRR", lines("7617.82", "131.19", "88", "581080", "1.00"), "one transaction took 0.581 s"},
		{"stopped between two transactions", "TCP_RR", lines("50000", "9.9", "15", "1200", "1.00"), "0.505 s of the measured 1 s lie outside all transactions"},
		{"stopped to the end", "TCP_RR", lines("38000", "26.1", "15", "412000", "1.40"), "one transaction took 0.412 s"},
		{"stopped five times for a tenth", "TCP_RR", lines("50000", "19.9", "9", "101000", "1.00"), "the mean of 1.99e-05 s is above what 99 of 100 transactions took, 9e-06 s: the others took 0.545 s"},
		{"half a second of a minute", "TCP_RR", lines("99000", "10.1", "15", "500000", "60.00"), ""},
		{"four seconds of a minute", "TCP_RR", lines("93000", "10.7", "15", "4000000", "60.00"), "one transaction took 4 s"},
		{"a retransmission", "TCP_RR", lines("24000", "41.6", "34", "206000", "1.00"), ""},
		{"the clock was set", "TCP_RR", lines("50", "60000", "15", "300", "1.00"), "the clock was set"},
		{"every transaction takes long", "TCP_RR", strings.Replace(lines("1.9", "520000", "530000", "530000", "10.00"), "P50_LATENCY=11", "P50_LATENCY=510000", 1), ""},
		{"not asked for", "TCP_RR", "THROUGHPUT=1000\nMEAN_LATENCY=10\nP50_LATENCY=1\nP90_LATENCY=1\nP99_LATENCY=1\n", ""},
	} {
		e, err := netperfEvidence(cellOf(tc.workload), []byte(tc.text))
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if tc.want == "" && e.Hole.Why != "" || !strings.Contains(e.Hole.Why, tc.want) {
			t.Errorf("%s %s: %q, want %q", tc.what, tc.workload, e.Hole.Why, tc.want)
		}
	}
}

// report is iperf3's, of intervals in seconds and MB; the end may not fit them.
func report(seconds float64, omitted int, parts ...[2]float64) []byte {
	type object map[string]any
	var ins []object
	at, bytes := 0.0, 0.0
	for i, p := range parts {
		ins = append(ins, object{"sum": object{"start": at, "end": at + p[0], "seconds": p[0], "bytes": p[1] * 1e6, "omitted": i < omitted}})
		at += p[0]
		if i >= omitted {
			bytes += p[1] * 1e6
		}
		if i == omitted-1 {
			at = 0
		}
	}
	data, err := json.Marshal(object{"intervals": ins, "end": object{
		"sum_sent": object{"seconds": seconds, "bytes": bytes}, "sum_received": object{"seconds": seconds, "bytes": bytes, "bits_per_second": 8 * bytes / seconds},
	}})
	if err != nil {
		panic(err)
	}
	return data
}

// TestIperfHoles holds intervals as they were measured, of a client and a server that
// were stopped for half a second, and of honest ones.
func TestIperfHoles(t *testing.T) {
	cell := cellOf("TCP_STREAM")
	cell.Factors[plan.FactorDuration] = "1s"
	long := cellOf("TCP_STREAM")
	long.Factors[plan.FactorDuration] = "60s"
	even := func(n int, seconds, mb float64) (out [][2]float64) {
		for range n {
			out = append(out, [2]float64{seconds, mb})
		}
		return out
	}
	for _, tc := range []struct {
		what string
		cell plan.Cell
		text []byte
		want string
	}{
		{"busy", cell, report(1.0004, 0, [2]float64{.109, 28}, [2]float64{.107, 101.2}, [2]float64{.085, 76.4}, [2]float64{.1, 83.4}, [2]float64{.1, 420.7},
			[2]float64{.105, 359.4}, [2]float64{.104, 496}, [2]float64{.091, 489.7}, [2]float64{.1, 539.1}, [2]float64{.1, 523}), ""},
		{"other programs from the middle on", cell, report(1, 0, append(even(5, .1, 300), even(5, .1, 18)...)...), ""},
		{"client stopped", cell, report(1.0129, 0, [2]float64{.102, 41.7}, [2]float64{.099, 37.1}, [2]float64{.158, 17.3}, [2]float64{.046, 16}, [2]float64{.608, 43.1}),
			"an interval of the client took 0.608 s instead of 0.1 s"},
		{"server stopped", cell, report(1.0086, 0, [2]float64{.102, 60.4}, [2]float64{.098, 80.3}, [2]float64{.101, 86.1}, [2]float64{.1, 80.7}, [2]float64{.098, 55.3},
			[2]float64{.1, 0}, [2]float64{.1, 0}, [2]float64{.101, 0}, [2]float64{.098, 0}, [2]float64{.108, 17.2}), "nothing was sent for 0.399 s of the measured 1.01 s"},
		{"a retransmission timeout", cell, report(1, 0, append(append(even(4, .1, 300), even(2, .1, 0)...), even(4, .1, 300)...)...), ""},
		{"slow, by whole buffers", cell, report(1, 0, append(even(1, .1, 2.5), even(9, .1, 0)...)...), ""},
		{"intervals missing", cell, report(1, 0, even(5, .1, 300)...), "the client's intervals cover 0.5 s of the measured 1 s"},
		{"warm-up", cell, report(1, 10, append(even(10, .1, 0), even(10, .1, 300)...)...), ""},
		{"half a second of a minute", long, report(60, 0, append(even(19, 3, 900), [2]float64{3, 750})...), ""},
		{"five seconds of a minute", long, report(60, 0, append(append(even(17, 3, 900), [2]float64{3.2, 300}), [2]float64{8.8, 900})...), "an interval of the client took 8.8 s instead of 3 s"},
	} {
		e, err := iperfEvidence(tc.cell, tc.text)
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if tc.want == "" && e.Hole.Why != "" || !strings.Contains(e.Hole.Why, tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, e.Hole.Why, tc.want)
		}
	}
}

// TestHoleOfSeveralClients: one of several may have waited for the others.
func TestHoleOfSeveralClients(t *testing.T) {
	a, b := Hole{Seconds: 0.5, Why: "a"}, Hole{Seconds: 0.6, Why: "b"}
	if got := HoleOf([]Evidence{{Hole: a}, {}}); got != (Hole{}) {
		t.Errorf("one of two: %v", got)
	}
	if got := HoleOf([]Evidence{{Hole: a}, {Hole: b}}); got != a {
		t.Errorf("two of two: %v, want the first", got)
	}
}

// TestTransactionsAreAtLeast: netperf's seconds are rounded, and a filter must not
// have missed what only the rounding made.
func TestTransactionsAreAtLeast(t *testing.T) {
	e, err := netperfEvidence(cellOf("TCP_RR"), []byte(lines("1000", "999", "1200", "3000", "2.01")))
	if err != nil || e.Transactions > 2005 || e.Transactions < 2004 || e.Seconds != 2.01 {
		t.Errorf("evidence %+v, error %v, want 2005 transactions in 2.01 s, not the plan's 3 s", e, err)
	}
}

// TestActivityTakesTheMonotonicClock: rates are of the time that passed.
func TestActivityTakesTheMonotonicClock(t *testing.T) {
	a := bundle.Activity{UnixNano: 1e18, MonoNano: 5e9, CPU: map[string]float64{"user": 1}}
	b := bundle.Activity{UnixNano: 1e18 + 3602e9, MonoNano: 7e9, CPU: map[string]float64{"user": 2.6}} // an hour ahead
	if got := metric(t, activityMetrics("x", a, b), "cpu.x").Value; got != 0.8 {
		t.Errorf("busy CPUs %v, want 1.6 s over 2 s", got)
	}
	a.MonoNano, b.MonoNano = 0, 0 // snapshots from before, and of virtual time
	if got := metric(t, activityMetrics("x", a, b), "cpu.x").Value; got > 0.001 {
		t.Errorf("busy CPUs %v, want 1.6 s over 3602 s", got)
	}
}

func TestIntervals(t *testing.T) {
	for _, tc := range []struct {
		warmup, duration string
		want             float64
	}{{"0s", "1s", 0.1}, {"1s", "3s", 0.2}, {"0s", "60s", 3}, {"30s", "1s", 0.6}, {"5s", "10s", 0.5}} {
		cell := cellOf("TCP_STREAM")
		cell.Factors[plan.FactorWarmup], cell.Factors[plan.FactorDuration] = tc.warmup, tc.duration
		if got := intervalOf(cell); got != tc.want {
			t.Errorf("%s after %s: %g s, want %g", tc.duration, tc.warmup, got, tc.want)
		}
	}
}
