package workload

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Names of h2load's workloads.
const (
	workloadHTTP    = "HTTP"
	workloadHTTPNew = "HTTP_NEW"
	workloadHTTP2   = "HTTP2"
)

const (
	toolH2load             = "h2load"
	instructionsPerRequest = "instructions_per_request"
	// mostRequests of a trial: each is a line of h2load's log, of up to 27 bytes, and the
	// helper keeps 4 MiB of what a program prints.
	mostRequests = 150_000
)

// NeedsHTTP says whether a cell's workload is made of the programs of HTTP; the lab must then
// have them.
func NeedsHTTP(cell plan.Cell) bool {
	w, err := find(cell)
	return err == nil && w.Tool == toolH2load
}

// http is HTTP/1.1 on one connection that is kept alive.
func http() workload {
	w := requests(workloadHTTP, "h2load and nginx, HTTP/1.1 requests one after the other on one connection; requests a second and their latency", "--h1")
	w.Headline = []catalog.Metric{{Name: metricLatencyMean, Title: "latency of a request", Unit: "s"}, {Name: metricLatency50, Title: "median latency of a request", Unit: "s"}, rate("request rate")}
	w.Metrics = slices.Concat(latencies(metricLatency90, metricLatency99), requestMetrics())
	w.Figure = "http-latency"
	return w
}

// httpNew has no headline of time: h2load's latency begins when the connection is there.
func httpNew() workload {
	w := requests(workloadHTTPNew, "h2load and nginx, a connection for each HTTP/1.1 request; requests a second", "--h1", "-H", "Connection: close")
	w.Headline = []catalog.Metric{rate("request rate, a connection each")}
	w.Metrics = slices.Concat(latencies(metricLatencyMean, metricLatency50, metricLatency90, metricLatency99), requestMetrics())
	w.Figure = "http-new-rate"
	return w
}

// http2 is HTTP/2 by prior knowledge (RFC 9113, 3.3), without TLS.
func http2() workload {
	w := requests(workloadHTTP2, "h2load and nginx, HTTP/2 requests one after the other on one connection without TLS; requests a second and their latency", "-m", "1")
	w.Headline = []catalog.Metric{{Name: metricLatencyMean, Title: "latency of an HTTP/2 request", Unit: "s"}, {Name: metricLatency50, Title: "median latency of an HTTP/2 request", Unit: "s"}, rate("HTTP/2 request rate")}
	w.Metrics = slices.Concat(latencies(metricLatency90, metricLatency99), requestMetrics())
	w.Figure = "http2-latency"
	return w
}

func requestMetrics() []catalog.Metric {
	cpu := catalog.Metric{Name: metricCPU, Title: "CPU time of a request", Unit: "s"}
	return append([]catalog.Metric{cpu}, sharing(metricRate, "1/s")...)
}

// requests is a workload of h2load's, whose options say the version of HTTP and how
// connections are used.
func requests(name, doc string, options ...string) workload {
	return workload{
		WorkloadEntry: plan.WorkloadEntry{
			Name: name, Doc: doc, Protocol: catalog.TCP, Tool: toolH2load, Counts: true, OnlyCounts: true, MostCount: mostRequests, Application: catalog.HTTP,
			Work: catalog.Work{Name: "request", Instructions: instructionsPerRequest},
		},
		raw:     ".txt",
		amount:  metricRate,
		combine: map[string]combine{metricLatencyMean: weighted, metricLatency50: largest, metricLatency90: largest, metricLatency99: largest},
		each:    true,
		client: func(t Target, c Client, cell plan.Cell) []string {
			argv := append([]string{"h2load"}, options...)
			return append(argv, "-t", "1", "-c", "1", "-n", cell.Get(plan.FactorCount), "--log-file=/proc/self/fd/1", t.url(c))
		},
		parse: parseH2load, evidence: h2loadEvidence,
		turns: bundle.SchedRR,
	}
}

// Reads of the CPU time of the programs at the server's end around the measured client.
const (
	CPUBefore = "cpu-before"
	CPUAfter  = "cpu-after"
)

// Metrics of the CPU time that a request takes, in seconds: of all programs, and of each.
const (
	metricCPU       = "cpu_per_request"
	metricCPUClient = "cpu_per_request.client"
	metricCPUServer = "cpu_per_request.server"
	metricCPUProxy  = "cpu_per_request.proxy"
)

// cpu reads the CPU time of server and proxy, of requests on the wall clock: in virtual time
// instructions are counted.
func (w workload) cpu(t Target, cell plan.Cell, at func(bundle.Action) bundle.Step, name string) []bundle.Step {
	if w.Application != catalog.HTTP || !gapsShow(cell) {
		return nil
	}
	var handles []string
	for k := range t.Clients {
		handles = append(handles, handleOf(k))
	}
	if t.Proxy != "" {
		handles = append(handles, t.Proxy)
	}
	return []bundle.Step{at(bundle.Read{Name: name, From: bundle.Counter{CPU: &bundle.CPUCounter{Handles: handles}}})}
}

// CPUOfRequests are the metrics of CPU time: client is what the client programs took, in
// seconds, and before and after are what the programs at the server's end had, in
// nanoseconds by handle. None if the kernel kept no account of all of them.
func CPUOfRequests(requests, client float64, before, after map[string]float64, proxy string) []Metric {
	if requests <= 0 || client <= 0 || len(after) == 0 || len(before) != len(after) {
		return nil
	}
	server, proxied := 0.0, 0.0
	for handle, ns := range after {
		took := (ns - before[handle]) / 1e9
		if handle == proxy {
			proxied += took
		} else {
			server += took
		}
	}
	out := []Metric{{metricCPU, "s", (client + server + proxied) / requests}, {metricCPUClient, "s", client / requests}, {metricCPUServer, "s", server / requests}}
	if proxy != "" {
		out = append(out, Metric{metricCPUProxy, "s", proxied / requests})
	}
	return out
}

// url is what a client requests.
func (t Target) url(c Client) string {
	host := t.ServerAddr
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("http://%s:%d%s", host, c.Port, cmp.Or(t.Path, "/"))
}

// request is a line of h2load's log: when a request began, what it got, and how long
// that took. Times in microseconds.
type request struct {
	start, took uint64
	status      int
}

func (r request) end() uint64 { return r.start + r.took }

// readH2load reads the log and the summary that h2load prints after it. Both must be
// whole and agree, and every request must have got a status of 2xx.
func readH2load(data []byte) ([]request, error) {
	var all []request
	counts := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if fields := strings.Split(line, "\t"); len(fields) > 1 {
			r, err := requestOf(fields)
			if err != nil {
				return nil, fmt.Errorf("line %q of the log: %w", line, err)
			}
			all = append(all, r)
			continue
		}
		for _, head := range []string{"requests: ", "status codes: "} {
			if rest, ok := strings.CutPrefix(line, head); ok {
				if err := addCounts(counts, rest); err != nil {
					return nil, fmt.Errorf("line %q: %w", line, err)
				}
			}
		}
	}
	return all, agree(all, counts)
}

func requestOf(fields []string) (r request, err error) {
	if len(fields) != 3 {
		return r, fmt.Errorf("has %d fields, want start, status and duration", len(fields))
	}
	start, err := strconv.ParseUint(fields[0], 10, 63)
	took, err2 := strconv.ParseUint(fields[2], 10, 63)
	status, err3 := strconv.Atoi(fields[1])
	if err := errors.Join(err, err2, err3); err != nil {
		return r, err
	}
	if took > mostSeconds*1e6 {
		return r, fmt.Errorf("a request of %d us is more than can be", took)
	}
	return request{start: start, took: took, status: status}, nil
}

// addCounts reads "3 total, 3 started": numbers by what they count.
func addCounts(counts map[string]uint64, list string) error {
	for _, item := range strings.Split(list, ",") {
		number, name, _ := strings.Cut(strings.TrimSpace(item), " ")
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil {
			return err
		}
		counts[name] = n
	}
	return nil
}

// agree holds the log against the summary, and refuses requests that were not served.
func agree(all []request, counts map[string]uint64) error {
	refused, first := 0, 0
	for _, r := range all {
		if r.status < 200 || r.status > 299 {
			if refused == 0 {
				first = r.status
			}
			refused++
		}
	}
	total, whole := counts["total"]
	switch {
	case refused > 0:
		return fmt.Errorf("%d of %d requests did not get a status of 2xx, the first of them %d", refused, len(all), first)
	case !whole:
		return fmt.Errorf("the output ends before h2load's summary, after %d requests", len(all))
	case len(all) == 0:
		return errors.New("no request was made")
	case uint64(len(all)) != total || counts["succeeded"] != total || counts["2xx"] != total:
		return fmt.Errorf("the log has %d requests, and h2load counted %d, of which %d succeeded and %d got 2xx", len(all), total, counts["succeeded"], counts["2xx"])
	}
	return nil
}

// span is from the first request's beginning to the last one's end, in seconds.
func span(all []request) float64 {
	first, last := uint64(math.MaxUint64), uint64(0)
	for _, r := range all {
		first, last = min(first, r.start), max(last, r.end())
	}
	return float64(last-first) / 1e6
}

// parseH2load takes every figure from the log; h2load's own are of few digits. A percentile
// is the least time that so many of 100 requests did not exceed.
func parseH2load(data []byte, _ bool) ([]Metric, error) {
	all, err := readH2load(data)
	if err != nil {
		return nil, err
	}
	took := make([]float64, len(all))
	for i, r := range all {
		took[i] = float64(r.took) / 1e6
	}
	slices.Sort(took)
	seconds, mean := span(all), sum(took)/float64(len(all))
	if seconds <= 0 || mean <= 0 {
		return nil, fmt.Errorf("%d requests took %g s", len(all), seconds)
	}
	percentile := func(p float64) float64 { return took[max(0, int(math.Ceil(p*float64(len(took))))-1)] }
	return []Metric{
		{metricRate, "1/s", float64(len(all)) / seconds},
		{metricLatencyMean, "s", mean},
		{metricLatency50, "s", percentile(.50)}, {metricLatency90, "s", percentile(.90)}, {metricLatency99, "s", percentile(.99)},
	}, nil
}

// h2loadEvidence: a client that is stopped within a request makes that one as long; one
// that is stopped between two makes the time between them as long.
func h2loadEvidence(cell plan.Cell, data []byte) (Evidence, error) {
	all, err := readH2load(data)
	if err != nil {
		return Evidence{}, err
	}
	e := Evidence{Seconds: span(all), Transactions: float64(len(all))}
	if n := cell.Int(plan.FactorCount); n > 0 && n != len(all) {
		return e, fmt.Errorf("h2load made %d requests instead of %d", len(all), n)
	}
	if !gapsShow(cell) {
		return e, nil
	}
	slices.SortFunc(all, func(a, b request) int { return cmp.Compare(a.start, b.start) })
	until, limit := all[0].start, holeLimit(e.Seconds)
	for _, r := range all {
		if long := float64(r.took) / 1e6; long >= limit && long > e.Hole.Seconds {
			e.Hole = Hole{Seconds: long, Why: fmt.Sprintf("one request took %.3g s of the measured %.3g s", long, e.Seconds)}
		}
		if open := (float64(r.start) - float64(until)) / 1e6; open >= limit && open > e.Hole.Seconds {
			e.Hole = Hole{Seconds: open, Why: fmt.Sprintf("%.3g s of the measured %.3g s lie between two requests", open, e.Seconds)}
		}
		until = max(until, r.end())
	}
	return e, nil
}
