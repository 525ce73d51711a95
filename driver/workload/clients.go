package workload

import (
	"fmt"
	"slices"
	"strings"
)

// together makes one trial of what several clients measured at the same time.
// What counts work is added up: rates, bits, retransmissions. The mean latency is
// that of all transactions; of a percentile, which cannot be had from the
// clients' own, it is the largest, which the percentile of all cannot exceed.
// How the work was shared out is told beside it.
// A client that had nothing counts as 0; an error if none had anything.
func together(each [][]Metric) ([]Metric, error) {
	if len(each) == 1 {
		return each[0], nil
	}
	var out []Metric
	for _, m := range each[0] {
		values := valuesOf(each, m.Name)
		if len(values) < len(each) {
			continue // not all clients know it
		}
		switch {
		case strings.HasPrefix(m.Name, "latency_p"):
			m.Value = slices.Max(values)
		case m.Name == "latency_mean":
			m.Value = weighted(values, valuesOf(each, "rate"))
		case m.Name == "rtt_mean", m.Name == "stream_fairness":
			m.Value = sum(values) / float64(len(values))
		default:
			m.Value = sum(values)
		}
		out = append(out, m)
		if m.Name == "rate" || m.Name == "throughput" {
			if m.Value <= 0 {
				return nil, fmt.Errorf("no client had any %s", m.Name)
			}
			out = append(out, shares(m, values)...)
		}
	}
	return out, nil
}

// jain is an index of fairness: 1 where all have the same, 1/k where one of k has
// everything (Jain, Chiu and Hawe, DEC-TR-301, 1984). Not all values may be 0.
func jain(values []float64) float64 {
	squares := 0.0
	for _, v := range values {
		squares += v * v
	}
	total := sum(values)
	return total * total / (float64(len(values)) * squares)
}

// shares tells how evenly clients shared what they got, and what the worst and
// the best off got.
func shares(m Metric, values []float64) []Metric {
	return []Metric{
		{"fairness", "1", jain(values)},
		{m.Name + "_min", m.Unit, slices.Min(values)},
		{m.Name + "_max", m.Unit, slices.Max(values)},
	}
}

// valuesOf are the clients' values of a metric, of those that have it.
func valuesOf(each [][]Metric, name string) []float64 {
	var out []float64
	for _, ms := range each {
		if i := slices.IndexFunc(ms, func(m Metric) bool { return m.Name == name }); i >= 0 {
			out = append(out, ms[i].Value)
		}
	}
	return out
}

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// weighted is the mean of values, each as often as its weight says.
func weighted(values, weights []float64) float64 {
	if len(weights) != len(values) || sum(weights) <= 0 {
		return sum(values) / float64(len(values))
	}
	total := 0.0
	for i, v := range values {
		total += v * weights[i]
	}
	return total / sum(weights)
}
