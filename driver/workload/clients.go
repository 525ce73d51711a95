package workload

import (
	"fmt"
	"slices"
)

// combine makes one value of a metric of those that several clients have at the same
// time. amounts are how much work each of them did, by the workload's amount.
type combine func(values, amounts []float64) float64

// Ways to combine. Rates, bits and retransmissions add up; of a percentile, which cannot
// be had from the clients' own, the largest is taken, which the percentile of all cannot
// exceed.
func added(values, _ []float64) float64   { return sum(values) }
func largest(values, _ []float64) float64 { return slices.Max(values) }
func average(values, _ []float64) float64 { return sum(values) / float64(len(values)) }

// together makes one trial of what several clients measured at the same time, each
// metric combined as the workload says. It adds how the clients shared the work.
// A client that had nothing counts as 0; an error if none had anything.
func (w workload) together(each [][]Metric) ([]Metric, error) {
	if len(each) == 1 {
		return each[0], nil
	}
	amounts := valuesOf(each, w.amount)
	var out []Metric
	for _, m := range each[0] {
		values := valuesOf(each, m.Name)
		if len(values) < len(each) {
			continue // not all clients have it
		}
		combined := w.combine[m.Name]
		if combined == nil {
			combined = added
		}
		m.Value = combined(values, amounts)
		out = append(out, m)
		if m.Name == w.amount {
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

// shares are how evenly clients shared what they got, and what the client with the
// least and the one with the most got.
func shares(m Metric, values []float64) []Metric {
	return []Metric{
		{metricFairness, "1", jain(values)},
		{m.Name + suffixLeast, m.Unit, slices.Min(values)},
		{m.Name + suffixMost, m.Unit, slices.Max(values)},
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
