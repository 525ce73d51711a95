package workload

import (
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

func cellOf(workload string) plan.Cell {
	return plan.Cell{ID: "test", Factors: map[string]string{
		plan.FactorWorkload: workload, plan.FactorDuration: "3s", plan.FactorWarmup: "1s",
		plan.FactorCongestion: "reno", plan.FactorClientCPU: "0", plan.FactorServerCPU: "1",
	}}
}

var target = Target{
	ClientNode: "node1", ServerNode: "node2", Server: "server", Clients: []Client{{"client", 5001}},
	ServerAddr: "198.18.12.20", ControlPort: 12865,
}

func argvs(t *testing.T, workload string) []string {
	t.Helper()
	steps, err := Render(cellOf(workload), target)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range steps {
		switch do := s.Do.(type) {
		case bundle.Start:
			out = append(out, s.Node+" "+s.In+": "+strings.Join(do.Argv, " "))
		case bundle.Exec:
			out = append(out, s.Node+" "+s.In+": "+strings.Join(do.Argv, " "))
		}
	}
	return out
}

func TestCommands(t *testing.T) {
	for workload, want := range map[string][]string{
		"TCP_STREAM": {
			"node2 server: iperf3 -s -4 -p 5001",
			"node1 client: iperf3 -4 -c 198.18.12.20 -p 5001 -J -C reno -t 3 -O 1",
		},
		"TCP_RR": {
			"node2 server: netserver -D -4 -p 12865",
			"node1 client: netperf -4 -H 198.18.12.20 -p 12865 -t TCP_RR -l 1 -j -- -P ,5001 -k THROUGHPUT,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY",
			"node1 client: netperf -4 -H 198.18.12.20 -p 12865 -t TCP_RR -l 3 -j -- -P ,5001 -k THROUGHPUT,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY",
		},
	} {
		if got := argvs(t, workload); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", workload, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestCounted: a cell with a count runs for so many transactions, without a
// warm-up, and its traffic and time follow from what it reports.
func TestCounted(t *testing.T) {
	cell := cellOf("TCP_RR")
	cell.Factors[plan.FactorCount] = "1700"
	delete(cell.Factors, plan.FactorDuration)
	delete(cell.Factors, plan.FactorWarmup)
	steps, err := Render(cell, target)
	if err != nil {
		t.Fatal(err)
	}
	var lengths []string
	for _, s := range steps {
		if do, ok := s.Do.(bundle.Exec); ok {
			lengths = append(lengths, do.Argv[slices.Index(do.Argv, "-l")+1])
			if do.Timeout < 1700/slowestRate {
				t.Errorf("it may take %v s", do.Timeout)
			}
		}
	}
	if !slices.Equal(lengths, []string{"-1700"}) {
		t.Errorf("netperf runs for %q, want 1700 transactions once", lengths)
	}
	metrics := []Metric{{"rate", "1/s", 850}}
	if got := Measured(cell, metrics); got != 2 {
		t.Errorf("measured for %v s, want 2", got)
	}
	if got := LeastTraffic(cell, metrics); got.Packets != 1700 {
		t.Errorf("at least %v packets, want 1700", got.Packets)
	}
	cell.Factors[plan.FactorClients] = "4"
	if got := Measured(cell, metrics); got != 8 {
		t.Errorf("four clients measured for %v s, want 8", got)
	}
}

// TestTakingTurns: programs of virtual time take turns by rule, others as the
// kernel has it.
func TestTakingTurns(t *testing.T) {
	turns := map[string]string{"TCP_STREAM": bundle.SchedBatch, "TCP_RR": bundle.SchedRR, "TCP_CRR": bundle.SchedRR}
	for _, clock := range []string{plan.ClockVirtual, plan.ClockWall} {
		for workload, want := range turns {
			if clock == plan.ClockWall {
				want = ""
			}
			cell := cellOf(workload)
			cell.Factors[plan.FactorClock] = clock
			steps, err := Render(cell, target)
			if err != nil {
				t.Fatal(err)
			}
			programs := 0
			for _, s := range steps {
				got := want
				switch do := s.Do.(type) {
				case bundle.Start:
					got, programs = do.Sched, programs+1
				case bundle.Exec:
					got, programs = do.Sched, programs+1
				}
				if got != want {
					t.Errorf("%s on clock %s: %+v, want policy %q", workload, clock, s.Do, want)
				}
			}
			if programs < 2 {
				t.Errorf("%s starts %d programs", workload, programs)
			}
		}
	}
}

const activity = `{"unix_nano": %s, "cpu_seconds": {"user": %s, "softirq": 0.5}, "softirqs": {"NET_RX": 10}, "tcp": {"RetransSegs": 2}, "load1": 0.5}`

func rawOfTrial(name, result string) fstest.MapFS {
	out := fstest.MapFS{name: {Data: []byte(result)}}
	for _, side := range []string{"client", "server"} {
		before := strings.Replace(strings.Replace(activity, "%s", "1000000000", 1), "%s", "1", 1)
		after := strings.Replace(strings.Replace(activity, "%s", "3000000000", 1), "%s", "4", 1)
		out[side+"-before.json"] = &fstest.MapFile{Data: []byte(before)}
		out[side+"-after.json"] = &fstest.MapFile{Data: []byte(after)}
	}
	return out
}

func metric(t *testing.T, ms []Metric, name string) Metric {
	t.Helper()
	for _, m := range ms {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no metric %q in %v", name, ms)
	return Metric{}
}

func TestParseTakesTheReceiversBits(t *testing.T) {
	ms, err := Parse(cellOf("TCP_STREAM"), rawOfTrial("result.json", `{"end": {
		"sum_sent": {"bits_per_second": 9e9, "retransmits": 7}, "sum_received": {"bits_per_second": 8e9, "bytes": 3e9}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if m := metric(t, ms, "throughput"); m.Value != 8e9 || m.Unit != "bit/s" {
		t.Errorf("throughput %v, want the received 8e9 bit/s", m)
	}
	if m := metric(t, ms, "retransmits"); m.Value != 7 {
		t.Errorf("retransmits %v, want 7", m)
	}
	if m := metric(t, ms, "cpu.client_node"); m.Value != 1.5 {
		t.Errorf("busy CPUs %v, want 3 s over 2 s", m)
	}
	if least := LeastTraffic(cellOf("TCP_STREAM"), ms); least.Bytes != 3e9 || least.Packets != 0 {
		t.Errorf("least traffic %v, want 3e9 bytes", least)
	}
}

func TestParseNetperf(t *testing.T) {
	text := "MIGRATED TCP REQUEST/RESPONSE TEST\nTHROUGHPUT=1000.50\nMEAN_LATENCY=999.5\nP50_LATENCY=900\nP90_LATENCY=1200\nP99_LATENCY=3000\n"
	ms, err := Parse(cellOf("TCP_RR"), rawOfTrial("result.txt", text))
	if err != nil {
		t.Fatal(err)
	}
	if m := metric(t, ms, "rate"); m.Value != 1000.5 || m.Unit != "1/s" {
		t.Errorf("rate %v", m)
	}
	if m := metric(t, ms, "latency_p99"); math.Abs(m.Value-0.003) > 1e-12 || m.Unit != "s" {
		t.Errorf("p99 %v, want 0.003 s", m)
	}
	if least := LeastTraffic(cellOf("TCP_RR"), ms); least.Packets != 3001.5 {
		t.Errorf("least traffic %v, want 3001.5 packets", least)
	}
}

func TestParseRefusesEmptyOutput(t *testing.T) {
	for workload, raw := range map[string]fstest.MapFS{
		"TCP_STREAM": rawOfTrial("result.json", `{"error": "unable to connect to server"}`),
		"TCP_RR":     rawOfTrial("result.txt", "establish control: are you sure there is a netserver listening\n"),
		"TCP_CRR":    rawOfTrial("result.txt", "THROUGHPUT=0.00\nMEAN_LATENCY=0\n"),
	} {
		if ms, err := Parse(cellOf(workload), raw); err == nil {
			t.Errorf("%s parsed nothing into %v", workload, ms)
		}
	}
}
