package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"hookbed/driver/plan"
)

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
	if streams := cell.Get(plan.FactorStreams); streams != "" {
		argv = append(argv, "-P", streams)
	}
	return argv
}

type iperfReport struct {
	Error string `json:"error"`
	End   struct {
		Received *struct {
			BitsPerSecond float64 `json:"bits_per_second"`
			Bytes         float64 `json:"bytes"`
		} `json:"sum_received"`
		Sent *struct {
			Retransmits *float64 `json:"retransmits"`
		} `json:"sum_sent"`
		Streams []struct {
			Sender struct {
				MeanRTT float64 `json:"mean_rtt"` // us
			} `json:"sender"`
			Receiver struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"receiver"`
		} `json:"streams"`
	} `json:"end"`
}

// parseIperf takes the receiver's figure: what the sender pushed into its
// socket buffer has not crossed the filter yet.
func parseIperf(data []byte, alone bool) ([]Metric, error) {
	var r iperfReport
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if r.Error != "" {
		return nil, fmt.Errorf("iperf3 says: %s", r.Error)
	}
	if r.End.Received == nil || r.End.Received.BitsPerSecond < 0 || alone && r.End.Received.BitsPerSecond == 0 {
		return nil, errors.New("no bits received")
	}
	out := []Metric{{"throughput", "bit/s", r.End.Received.BitsPerSecond}}
	if r.End.Sent != nil && r.End.Sent.Retransmits != nil {
		out = append(out, Metric{"retransmits", "1", *r.End.Sent.Retransmits})
	}
	return append(out, r.perStream()...), nil
}

// perStream is what the streams themselves report: their mean round-trip time
// and, of several, how evenly they shared the throughput.
func (r iperfReport) perStream() (out []Metric) {
	var rtts, received []float64
	for _, s := range r.End.Streams {
		if s.Sender.MeanRTT > 0 {
			rtts = append(rtts, s.Sender.MeanRTT/1e6)
		}
		received = append(received, s.Receiver.BitsPerSecond)
	}
	if len(rtts) > 0 {
		out = append(out, Metric{"rtt_mean", "s", sum(rtts) / float64(len(rtts))})
	}
	if len(received) > 1 && sum(received) > 0 {
		out = append(out, Metric{"stream_fairness", "1", jain(received)})
	}
	return out
}
