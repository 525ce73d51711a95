package workload

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

func clientsCell(workload string, n int) plan.Cell {
	c := cellOf(workload)
	c.Factors[plan.FactorClients] = fmt.Sprint(n)
	return c
}

// TestClientsRunAtOnce: each client's program is in one step with the others', in
// its own namespace, to its own port, with its own raw file.
func TestClientsRunAtOnce(t *testing.T) {
	two := target
	two.Clients = []Client{{"client", 5001}, {"client2", 5012}}
	for workload, want := range map[string]struct{ servers, clients []string }{
		"TCP_STREAM": {[]string{"iperf3 -s -4 -p 5001", "iperf3 -s -4 -p 5012"},
			[]string{"client result.json -p 5001 -J", "client2 result-2.json -p 5012 -J"}},
		"TCP_CRR": {[]string{"netserver -D -4 -p 12865"},
			[]string{"client result.txt ,5001", "client2 result-2.txt ,5012"}},
	} {
		steps, err := Render(clientsCell(workload, 2), two)
		if err != nil {
			t.Fatal(err)
		}
		var servers, clients []string
		stopped := 0
		for _, s := range steps {
			switch do := s.Do.(type) {
			case bundle.Start:
				servers = append(servers, strings.Join(do.Argv, " "))
			case bundle.Stop:
				stopped++
			case bundle.Parallel:
				for _, in := range do.Steps {
					e, ok := in.Do.(bundle.Exec)
					if !ok || e.Out == "" { // the warm-up
						continue
					}
					clients = append(clients, in.In+" "+e.Out+" "+strings.Join(e.Argv, " "))
				}
			case bundle.Exec:
				t.Errorf("%s: %v runs alone", workload, do.Argv)
			}
		}
		if !slices.Equal(servers, want.servers) || stopped != len(servers) {
			t.Errorf("%s: servers %q, %d stopped, want %q", workload, servers, stopped, want.servers)
		}
		if len(clients) != len(want.clients) {
			t.Fatalf("%s: clients %q", workload, clients)
		}
		for i, w := range want.clients {
			for _, part := range strings.SplitN(w, " ", 3) {
				if !strings.Contains(clients[i], part) {
					t.Errorf("%s: client %q, want %q in it", workload, clients[i], part)
				}
			}
		}
	}
}

func TestParseAddsClientsUp(t *testing.T) {
	netperf := func(rate, mean, p99 float64) string {
		return fmt.Sprintf("THROUGHPUT=%g\nMEAN_LATENCY=%g\nP50_LATENCY=10\nP90_LATENCY=20\nP99_LATENCY=%g\n", rate, mean, p99)
	}
	raw := rawOfTrial("result.txt", netperf(300, 1000, 3000))
	raw["result-2.txt"] = &fstest.MapFile{Data: []byte(netperf(100, 2000, 9000))}
	ms, err := Parse(clientsCell("TCP_RR", 2), raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"rate": 400, "rate_min": 100, "rate_max": 300, "latency_p99": 0.009,
		"latency_mean": (300*0.001 + 100*0.002) / 400, "fairness": 400. * 400 / (2 * (300*300 + 100*100)),
	} {
		if got := metric(t, ms, name).Value; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if least := leastOf(t, clientsCell("TCP_RR", 2), raw); least.Packets != 1200 {
		t.Errorf("least traffic %v, want that of both clients, 1200 packets", least)
	}
	raw["result-2.txt"] = &fstest.MapFile{Data: []byte(netperf(0, 0, 0))}
	if ms, err = Parse(clientsCell("TCP_RR", 2), raw); err != nil || metric(t, ms, "fairness").Value != 0.5 || metric(t, ms, "rate").Value != 300 {
		t.Errorf("one of two had nothing: %v, %v", ms, err)
	}
	raw["result.txt"] = &fstest.MapFile{Data: []byte(netperf(0, 0, 0))}
	if _, err := Parse(clientsCell("TCP_RR", 2), raw); err == nil || !strings.Contains(err.Error(), "no client had any rate") {
		t.Errorf("none of two had anything: %v", err)
	}
	delete(raw, "result-2.txt")
	if _, err := Parse(clientsCell("TCP_RR", 2), raw); err == nil {
		t.Error("a trial of two clients is parsed without the second one's result")
	}
}

func TestParseAddsStreamsUp(t *testing.T) {
	report := func(bits, lost float64) string {
		return fmt.Sprintf(`{"end": {"sum_sent": {"retransmits": %g}, "sum_received": {"bits_per_second": %g, "bytes": 1000}}}`, lost, bits)
	}
	raw := rawOfTrial("result.json", report(4e9, 1))
	raw["result-2.json"] = &fstest.MapFile{Data: []byte(report(4e9, 2))}
	ms, err := Parse(clientsCell("TCP_STREAM", 2), raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"throughput": 8e9, "retransmits": 3, "fairness": 1, "throughput_min": 4e9} {
		if got := metric(t, ms, name).Value; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestStreamsAreOneProgram: a client with several connections is one iperf3, whose
// figures are of all of them, with how evenly they shared.
func TestStreamsAreOneProgram(t *testing.T) {
	c := cellOf("TCP_STREAM")
	c.Factors[plan.FactorStreams] = "3"
	if argv := strings.Join(iperfClient(target, target.Clients[0], c), " "); !strings.HasSuffix(argv, " -P 3") {
		t.Errorf("client %q, want three streams", argv)
	}
	stream := func(bits, rtt float64) string {
		return fmt.Sprintf(`{"sender":{"mean_rtt":%g},"receiver":{"bits_per_second":%g}}`, rtt, bits)
	}
	raw := fmt.Sprintf(`{"end":{"streams":[%s,%s,%s],"sum_sent":{"retransmits":7},"sum_received":{"bits_per_second":600,"bytes":75}}}`, stream(100, 10), stream(200, 20), stream(300, 60))
	ms, err := Parse(c, rawOfTrial("result.json", raw))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range ms {
		got[m.Name] = m.Value
	}
	for name, want := range map[string]float64{"throughput": 600, "retransmits": 7, "rtt_mean": 30e-6, "stream_fairness": 600. * 600 / (3 * 140000)} {
		if math.Abs(got[name]/want-1) > 1e-9 {
			t.Errorf("%s is %g, want %g", name, got[name], want)
		}
	}
}
