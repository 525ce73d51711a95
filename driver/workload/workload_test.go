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
			"node1 client: iperf3 -4 -c 198.18.12.20 -p 5001 -J -C reno -t 3 -O 1 -i 0.2",
		},
		"TCP_RR": {
			"node2 server: netserver -D -4 -p 12865",
			"node1 client: netperf -4 -H 198.18.12.20 -p 12865 -t TCP_RR -l 1 -j -- -P ,5001 -k THROUGHPUT,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY,MAX_LATENCY,ELAPSED_TIME",
			"node1 client: netperf -4 -H 198.18.12.20 -p 12865 -t TCP_RR -l 3 -j -- -P ,5001 -k THROUGHPUT,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY,MAX_LATENCY,ELAPSED_TIME",
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
	raw := fstest.MapFS{rawOf(cell, 0): {Data: []byte("THROUGHPUT=850\nMEAN_LATENCY=1176\nP50_LATENCY=1170\nP90_LATENCY=1180\nP99_LATENCY=1200\n")}}
	clients, err := Evidences(cell, raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := LeastTraffic(clients); got.Packets != 1700 {
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
	raw := rawOfTrial("result.json", `{"end": {
		"sum_sent": {"bits_per_second": 9e9, "retransmits": 7}, "sum_received": {"bits_per_second": 8e9, "bytes": 2.9e9}}}`)
	ms, err := Parse(cellOf("TCP_STREAM"), raw)
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
	if least := leastOf(t, cellOf("TCP_STREAM"), raw); least.Bytes != 2.9e9 || least.Packets != 0 {
		t.Errorf("least traffic %v, want the 2.9e9 bytes that were counted, not 3 s of the rate", least)
	}
}

func TestParseNetperf(t *testing.T) {
	text := "MIGRATED TCP REQUEST/RESPONSE TEST\nTHROUGHPUT=1000.50\nMEAN_LATENCY=999.5\nP50_LATENCY=900\nP90_LATENCY=1200\nP99_LATENCY=3000\n"
	raw := rawOfTrial("result.txt", text)
	ms, err := Parse(cellOf("TCP_RR"), raw)
	if err != nil {
		t.Fatal(err)
	}
	if m := metric(t, ms, "rate"); m.Value != 1000.5 || m.Unit != "1/s" {
		t.Errorf("rate %v", m)
	}
	if m := metric(t, ms, "latency_p99"); math.Abs(m.Value-0.003) > 1e-12 || m.Unit != "s" {
		t.Errorf("p99 %v, want 0.003 s", m)
	}
	if least := leastOf(t, cellOf("TCP_RR"), raw); least.Packets != 3001.5 {
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

func leastOf(t *testing.T, cell plan.Cell, raw fstest.MapFS) Traffic {
	t.Helper()
	clients, err := Evidences(cell, raw)
	if err != nil {
		t.Fatal(err)
	}
	return LeastTraffic(clients)
}

// TestVirtualCommandsStay: what shows holes is not requested in virtual time, whose
// numbers are those of these very programs.
func TestVirtualCommandsStay(t *testing.T) {
	for workload, client := range map[string]string{
		"TCP_STREAM": "iperf3 -4 -c 198.18.12.20 -p 5001 -J -C reno -t 3 -O 1",
		"TCP_CRR":    "netperf -4 -H 198.18.12.20 -p 12865 -t TCP_CRR -l 3 -j -- -P ,5001 -k THROUGHPUT,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY",
	} {
		cell := cellOf(workload)
		cell.Factors[plan.FactorClock] = plan.ClockVirtual
		w, err := find(cell)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.client(target, target.Clients[0], cell), " "); got != client {
			t.Errorf("%s:\n%s\nwant\n%s", workload, got, client)
		}
	}
}

// TestParseRefusesWhatIsNoNumber: tools print nan and inf (netperf), null for either
// (cJSON), and figures that cannot be.
func TestParseRefusesWhatIsNoNumber(t *testing.T) {
	netperf := func(rate, p99 string) string {
		return "THROUGHPUT=" + rate + "\nMEAN_LATENCY=10\nP50_LATENCY=1\nP90_LATENCY=1\nP99_LATENCY=" + p99 + "\n"
	}
	iperf := func(bits, bytes, retransmits, rtt string) string {
		return `{"end": {"sum_sent": {"retransmits": ` + retransmits + `}, "sum_received": {"bits_per_second": ` + bits + `, "bytes": ` + bytes +
			`}, "streams": [{"sender": {"mean_rtt": ` + rtt + `}, "receiver": {"bits_per_second": 1}}]}}`
	}
	for _, tc := range []struct{ workload, text, want string }{
		{"TCP_RR", netperf("nan", "1"), `THROUGHPUT is "nan"`},
		{"TCP_RR", netperf("-nan", "1"), `THROUGHPUT is "-nan"`},
		{"TCP_RR", netperf("inf", "1"), `THROUGHPUT is "inf"`},
		{"TCP_CRR", netperf("100", "Infinity"), `P99_LATENCY is "Infinity"`},
		{"TCP_RR", netperf("1e999", "1"), `THROUGHPUT is "1e999"`},
		{"TCP_RR", netperf("-5", "1"), `THROUGHPUT is "-5"`},
		{"TCP_RR", netperf("1e12", "1"), `THROUGHPUT is "1e12", which is more than can be`},
		{"TCP_RR", netperf("0", "1"), `THROUGHPUT is "0"`},
		{"TCP_RR", netperf("1", "1") + "MAX_LATENCY=nan\n", `MAX_LATENCY is "nan"`},
		{"TCP_RR", netperf("1", "1") + "ELAPSED_TIME=inf\n", `ELAPSED_TIME is "inf"`},
		{"TCP_STREAM", iperf("null", "1", "0", "1"), `sum_received.bits_per_second is "null"`},
		{"TCP_STREAM", iperf("nan", "1", "0", "1"), "invalid character"},
		{"TCP_STREAM", iperf("1e400", "1", "0", "1"), `sum_received.bits_per_second is "1e400"`},
		{"TCP_STREAM", iperf("1e30", "1", "0", "1"), "more than can be"},
		{"TCP_STREAM", iperf("1", "null", "0", "1"), `sum_received.bytes is "null"`},
		{"TCP_STREAM", iperf("1", "-1", "0", "1"), `sum_received.bytes is "-1"`},
		{"TCP_STREAM", iperf("1", "1", "null", "1"), `sum_sent.retransmits is "null"`},
		{"TCP_STREAM", iperf("1", "1", "0", "null"), `mean_rtt of stream 1 is "null"`},
	} {
		name := "result.txt"
		if tc.workload == "TCP_STREAM" {
			name = "result.json"
		}
		ms, err := Parse(cellOf(tc.workload), rawOfTrial(name, tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s of %s: %v, error %v, want one with %s", tc.workload, tc.text, ms, err, tc.want)
		}
	}
	if _, err := Parse(cellOf("TCP_STREAM"), rawOfTrial("result.json", iperf("8", "1", "0", "1"))); err != nil {
		t.Errorf("a whole report is refused: %v", err)
	}
}
