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

// h2load is what the program prints of requests with these lines in its log.
func h2load(total int, log ...string) string {
	return "starting benchmark...\nspawning thread #0: 1 total client(s). 4 total requests\nApplication protocol: http/1.1\n" +
		strings.Join(log, "") + "progress: 100% done\n\n" +
		fmt.Sprintf("finished in 10.00ms, 400.00 req/s, 1.00MB/s\nrequests: %[1]d total, %[1]d started, %[1]d done, %[1]d succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: %[1]d 2xx, 0 3xx, 0 4xx, 0 5xx\n", total)
}

// served are four requests of 1, 2, 3 and 4 ms in 20 ms.
func served() []string {
	return []string{"1000000\t200\t1000\n", "1005000\t200\t2000\n", "1010000\t200\t3000\n", "1016000\t200\t4000\n"}
}

func httpCell(name string) plan.Cell {
	cell := cellOf(name)
	cell.Factors[plan.FactorCount] = "4"
	delete(cell.Factors, plan.FactorDuration)
	delete(cell.Factors, plan.FactorWarmup)
	return cell
}

func TestHTTPCommands(t *testing.T) {
	on := target
	on.Path = "/public/0001/item"
	for name, want := range map[string]string{
		workloadHTTP:    "h2load --h1 -t 1 -c 1 -n 4 --log-file=/proc/self/fd/1 http://198.18.12.20:5001/public/0001/item",
		workloadHTTPNew: "h2load --h1 -H Connection: close -t 1 -c 1 -n 4 --log-file=/proc/self/fd/1 http://198.18.12.20:5001/public/0001/item",
		workloadHTTP2:   "h2load -m 1 -t 1 -c 1 -n 4 --log-file=/proc/self/fd/1 http://198.18.12.20:5001/public/0001/item",
	} {
		cell := httpCell(name)
		steps, err := Render(cell, on)
		if err != nil {
			t.Fatal(err)
		}
		files := Files(cell, on)
		for _, s := range steps {
			switch do := s.Do.(type) {
			case bundle.Exec:
				if got := strings.Join(do.Argv, " "); got != want || !do.HTTP {
					t.Errorf("%s: client %q (HTTP %v), want %q of the HTTP programs", name, got, do.HTTP, want)
				}
			case bundle.Start:
				if len(do.Files) != 1 || !do.HTTP || do.Port != 5001 || !strings.Contains(string(files[do.Files[0]].Data), "listen 0.0.0.0:5001 ") {
					t.Errorf("%s: server %+v with files %v", name, do, files)
				}
			}
		}
	}
	if got := Files(cellOf("TCP_RR"), target); got != nil {
		t.Errorf("netperf needs the files %v, want none", got)
	}
}

func TestParseH2load(t *testing.T) {
	metrics, err := parseH2load([]byte(h2load(4, served()...)), true)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{metricRate: 200, metricLatencyMean: .0025, metricLatency50: .002, metricLatency90: .004, metricLatency99: .004} {
		i := slices.IndexFunc(metrics, func(m Metric) bool { return m.Name == name })
		if i < 0 || math.Abs(metrics[i].Value-want) > 1e-12 {
			t.Errorf("%s: %v, want %g", name, metrics, want)
		}
	}
}

// TestParseH2loadRefuses: what is not whole, not a number, or not served is no number.
func TestParseH2loadRefuses(t *testing.T) {
	lines := served()
	with := func(line string) []string { return append(slices.Clone(lines[:3]), line) }
	for text, want := range map[string]string{
		h2load(4, with("1016000\t403\t4000\n")...):                               "1 of 4 requests did not get a status of 2xx, the first of them 403",
		h2load(4, with("1016000\t-1\t4000\n")...):                                "the first of them -1",
		h2load(4, with("1016000\t200\tnan\n")...):                                `parsing "nan"`,
		h2load(4, with("inf\t200\t4000\n")...):                                   `parsing "inf"`,
		h2load(4, with("1016000\t200\t-4000\n")...):                              `parsing "-4000"`,
		h2load(4, with("1016000\t200\t9000000000000\n")...):                      "more than can be",
		h2load(4, with("1016000\t200\n")...):                                     "has 2 fields",
		h2load(4, lines[:3]...):                                                  "the log has 3 requests, and h2load counted 4",
		strings.Join(lines, ""):                                                  "ends before h2load's summary, after 4 requests",
		h2load(4, lines...)[:120]:                                                "line",
		h2load(0):                                                                "no request was made",
		strings.Replace(h2load(4, lines...), "4 succeeded", "3 succeeded", 1):    "of which 3 succeeded",
		strings.Replace(h2load(4, lines...), "4 2xx", "3 2xx", 1):                "3 got 2xx",
		strings.Replace(h2load(4, lines...), "requests: 4", "requests: four", 1): `parsing "four"`,
		"": "ends before",
		h2load(4, "1\t200\t0\n", "1\t200\t0\n", "1\t200\t0\n", "1\t200\t0\n"): "4 requests took 0 s",
	} {
		if _, err := parseH2load([]byte(text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}

// TestH2loadEvidence: a client that is stopped leaves a hole, in a request or between two.
func TestH2loadEvidence(t *testing.T) {
	for hole, last := range map[string]string{
		"":                             "1016000\t200\t4000\n",
		"one request took 1 s":         "1016000\t200\t1000000\n",
		"1 s of the measured 1.02 s l": "2013000\t200\t4000\n",
	} {
		cell := httpCell(workloadHTTP)
		text := h2load(4, append(served()[:3], last)...)
		es, err := Evidences(cell, fstest.MapFS{"result.txt": {Data: []byte(text)}})
		if err != nil || es[0].Transactions != 4 {
			t.Fatalf("%+v, %v, want 4 requests", es, err)
		}
		if got := es[0].Hole.Why; !strings.HasPrefix(got, hole) || (hole == "") != (got == "") {
			t.Errorf("hole %q, want %q", got, hole)
		}
		cell.Factors[plan.FactorCount] = "5"
		if _, err := Evidences(cell, fstest.MapFS{"result.txt": {Data: []byte(text)}}); err == nil {
			t.Error("4 requests of 5 pass for a whole trial")
		}
	}
}

// TestCPUOfRequests: what each program took is divided by the requests, and nothing is said
// where the account is not whole.
func TestCPUOfRequests(t *testing.T) {
	before, after := map[string]float64{"workload-server": 1e9, "proxy": 2e9}, map[string]float64{"workload-server": 3e9, "proxy": 6e9}
	got := CPUOfRequests(1000, 1, before, after, "proxy")
	want := []Metric{{metricCPU, "s", .007}, {metricCPUClient, "s", .001}, {metricCPUServer, "s", .002}, {metricCPUProxy, "s", .004}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, none := range [][]Metric{CPUOfRequests(0, 1, before, after, ""), CPUOfRequests(9, 0, before, after, ""), CPUOfRequests(9, 1, nil, after, ""), CPUOfRequests(9, 1, nil, nil, "")} {
		if none != nil {
			t.Errorf("%v of an account that is not whole", none)
		}
	}
}
