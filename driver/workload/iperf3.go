package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Metrics of iperf3.
const (
	metricThroughput     = "throughput"
	metricRetransmits    = "retransmits"
	metricRTT            = "rtt_mean"
	metricStreamFairness = "stream_fairness"
)

// stream is the study's measure of throughput.
func stream() workload {
	return workload{
		WorkloadEntry: plan.WorkloadEntry{
			Name: "TCP_STREAM", Doc: "iperf3, bulk TCP; bits received a second", Streams: true, Protocol: catalog.TCP, Tool: "iperf3", Figure: "throughput",
			Study:    map[string]string{plan.Localhost: "5", plan.MultiHost: "7"},
			Headline: []catalog.Metric{{Name: metricThroughput, Title: "throughput", Unit: "bit/s", Higher: true}},
			Metrics: slices.Concat([]catalog.Metric{{Name: metricRetransmits, Unit: "1"}, {Name: metricRTT, Unit: "s"},
				{Name: metricStreamFairness, Unit: "1", Higher: true}}, sharing(metricThroughput, "bit/s")),
			Work: catalog.Work{Name: "MiB", Instructions: "instructions_per_mib", Bytes: 1 << 20},
		},
		raw:    ".json",
		amount: metricThroughput, combine: map[string]combine{metricRTT: average, metricStreamFairness: average},
		server: iperfServer, each: true, client: iperfClient, parse: parseIperf, evidence: iperfEvidence,
		turns: bundle.SchedBatch, // several threads, which real time does not suit
	}
}

// iperfServer serves one test at a time, so that each client has its own.
func iperfServer(t Target, port int) []string {
	return []string{"iperf3", "-s", t.family(), "-p", strconv.Itoa(port)}
}

// iperfClient omits the warm-up from its own figures (-O).
func iperfClient(t Target, c Client, cell plan.Cell) []string {
	argv := []string{
		"iperf3", t.family(), "-c", t.ServerAddr, "-p", strconv.Itoa(c.Port), "-J",
		"-C", cell.Get(plan.FactorCongestion), "-t", wholeSeconds(cell, plan.FactorDuration),
	}
	if omit := wholeSeconds(cell, plan.FactorWarmup); omit != "0" {
		argv = append(argv, "-O", omit)
	}
	if gapsShow(cell) {
		argv = append(argv, "-i", strconv.FormatFloat(intervalOf(cell), 'f', 1, 64))
	}
	if streams := cell.Get(plan.FactorStreams); streams != "" {
		argv = append(argv, "-P", streams)
	}
	return argv
}

type iperfReport struct {
	Error     string          `json:"error"`
	Intervals []iperfInterval `json:"intervals"`
	End       struct {
		Received *iperfSum `json:"sum_received"`
		Sent     *iperfSum `json:"sum_sent"`
		Streams  []struct {
			Sender struct {
				MeanRTT figure `json:"mean_rtt"` // us
			} `json:"sender"`
			Receiver struct {
				BitsPerSecond figure `json:"bits_per_second"`
			} `json:"receiver"`
		} `json:"streams"`
	} `json:"end"`
}

// iperfSum is what one side counted over all streams in the measured time.
type iperfSum struct {
	Seconds       figure `json:"seconds"`
	Bytes         figure `json:"bytes"`
	BitsPerSecond figure `json:"bits_per_second"`
	Retransmits   figure `json:"retransmits"`
}

// readIperf decodes a report that is not one of an error.
func readIperf(data []byte) (iperfReport, error) {
	var r iperfReport
	if err := json.Unmarshal(data, &r); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) { // older versions write nan and inf as such
			at := min(int(syntax.Offset), len(data))
			err = fmt.Errorf("%w: %q", err, data[max(0, at-40):at])
		}
		return r, err
	}
	if r.Error != "" {
		return r, fmt.Errorf("iperf3 says: %s", r.Error)
	}
	if r.End.Received == nil || !r.End.Received.BitsPerSecond.given() {
		return r, errors.New("no bits received")
	}
	return r, nil
}

// parseIperf takes the receiver's figure: what the sender pushed into its
// socket buffer has not crossed the filter yet.
func parseIperf(data []byte, alone bool) ([]Metric, error) {
	r, err := readIperf(data)
	if err != nil {
		return nil, err
	}
	bits, err := r.End.Received.BitsPerSecond.value("sum_received.bits_per_second", mostBits)
	if err != nil {
		return nil, err
	}
	if alone && bits == 0 {
		return nil, errors.New("no bits received")
	}
	out := []Metric{{metricThroughput, "bit/s", bits}}
	if r.End.Sent != nil && r.End.Sent.Retransmits.given() {
		n, err := r.End.Sent.Retransmits.value("sum_sent.retransmits", mostCount)
		if err != nil {
			return nil, err
		}
		out = append(out, Metric{metricRetransmits, "1", n})
	}
	streams, err := r.perStream()
	return append(out, streams...), err
}

// perStream is what the streams themselves report: their mean round-trip time
// and, of several, how evenly they shared the throughput.
func (r iperfReport) perStream() (out []Metric, err error) {
	var rtts, received []float64
	for i, s := range r.End.Streams {
		if s.Sender.MeanRTT.given() {
			rtt, err := s.Sender.MeanRTT.value(fmt.Sprintf("mean_rtt of stream %d", i+1), mostSeconds*1e6)
			if err != nil {
				return nil, err
			}
			if rtt > 0 {
				rtts = append(rtts, rtt/1e6)
			}
		}
		bits := 0.0
		if s.Receiver.BitsPerSecond.given() {
			if bits, err = s.Receiver.BitsPerSecond.value(fmt.Sprintf("bits_per_second of stream %d", i+1), mostBits); err != nil {
				return nil, err
			}
		}
		received = append(received, bits)
	}
	if len(rtts) > 0 {
		out = append(out, Metric{metricRTT, "s", sum(rtts) / float64(len(rtts))})
	}
	if len(received) > 1 && sum(received) > 0 {
		out = append(out, Metric{metricStreamFairness, "1", jain(received)})
	}
	return out, nil
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

// part is a measured interval: seconds, and bytes that the client gave to its socket.
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
