package campaign

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/lab"
	"hookbed/driver/workload"
)

// clientSteps are the steps of a trial that ran the measured clients.
func clientSteps(ex lab.Execution) []lab.Outcome {
	var out []lab.Outcome
	for _, o := range ex.Steps {
		switch do := o.Do.(type) {
		case bundle.Exec:
			if do.Out != "" { // else it is the warm-up
				out = append(out, o)
			}
		case bundle.Parallel:
			if e, ok := do.Steps[0].Do.(bundle.Exec); ok && e.Out != "" {
				out = append(out, o)
			}
		}
	}
	return out
}

// stopped returns that a client was stopped while it ran, or "". The kernel reports
// it to the helper, which is the client's parent, so it is true on a busy machine too.
func stopped(ex lab.Execution) string {
	for _, o := range clientSteps(ex) {
		if n := o.Values["stops"]; n > 0 {
			return fmt.Sprintf("the client was stopped for %.3g s (%.0f times, by a signal or a debugger)", o.Values["stopped_seconds"], n)
		}
	}
	return ""
}

// hollow returns that a trial has a hole which other programs did not cause, or "".
// The kernel's account of waiting is an average over CPUs weighted by how busy they
// were, so tasks of one CPU may have waited twice as long. If tasks waited for as
// long as the hole is, other programs may have caused it, and the limits of load and
// steal judge that; if the kernel has no such account, the hole is not judged.
func hollow(h workload.Hole, waited float64, known bool, metrics []workload.Metric) string {
	if h.Why == "" || !known || 2*waited >= h.Seconds || h.Resent && resent(metrics) {
		return ""
	}
	return fmt.Sprintf("%s, while tasks waited for a CPU for %.3g s", h.Why, waited)
}

// resent reports whether a node retransmitted segments during the workload.
func resent(metrics []workload.Metric) bool {
	return slices.ContainsFunc(metrics, func(m workload.Metric) bool {
		return strings.HasPrefix(m.Name, workload.TCPRetransOf) && m.Value > 0
	})
}

// A trial is compared with the cell's other ok trials once there are leastOthers of
// them. It is far off if it differs by more than farSigmas standard deviations (from
// the median absolute deviation), and by more than the factor farFactor in CPU time a
// second, or more than farSeconds in the time outside the measurement. It is compared
// only if other programs took about as much CPU time as during the other trials
// (nearWaited, in seconds of waiting a second).
const (
	leastOthers = 4
	farSigmas   = 5
	farFactor   = 3
	farSeconds  = 1
	nearWaited  = 0.1
)

// use is the time that a trial's clients took, on average.
type use struct {
	known   bool
	cpu     float64 // CPU seconds per second that the tool measured
	besides float64 // seconds that the program ran outside its measurement
	waited  float64 // seconds in which tasks waited for a CPU, per second of the program
}

// useOf computes a trial's use from the reports of the helper and the tools. waited
// is in seconds.
func useOf(ex lab.Execution, clients []workload.Evidence, waited float64) use {
	var wall, cpu, measured float64
	for _, o := range clientSteps(ex) {
		wall += o.Values["seconds"]
		cpu += o.Values["cpu_seconds"]
	}
	for _, e := range clients {
		if e.Seconds == 0 {
			return use{}
		}
		measured += e.Seconds
	}
	if wall == 0 || cpu == 0 {
		return use{}
	}
	n := float64(len(clients))
	return use{known: true, cpu: cpu / measured, besides: (wall - measured) / n, waited: waited / (wall / n)}
}

// others are the uses of this process's ok trials, by cell.
type others map[string][]use

func (o others) add(cell string, u use) {
	if u.known {
		o[cell] = append(o[cell], u)
	}
}

// unlike returns how a trial's client is far off from those of the cell's others,
// or "".
func (o others) unlike(cell string, u use) string {
	all := o[cell]
	if !u.known || len(all) < leastOthers {
		return ""
	}
	of := func(get func(use) float64) (median, spread float64) {
		var x []float64
		for _, v := range all {
			x = append(x, get(v))
		}
		median = middle(x)
		for i := range x {
			x[i] = math.Abs(x[i] - median)
		}
		return median, 1.4826 * middle(x) // of a normal distribution
	}
	if waited, _ := of(func(v use) float64 { return v.waited }); math.Abs(u.waited-waited) > nearWaited {
		return ""
	}
	cpu, spread := of(func(v use) float64 { return v.cpu })
	if math.Abs(u.cpu-cpu) > farSigmas*spread && (u.cpu > farFactor*cpu || u.cpu < cpu/farFactor) {
		return fmt.Sprintf("the client used %.3g s of CPU time a second, in the cell's %d others %.3g s", u.cpu, len(all), cpu)
	}
	besides, spread := of(func(v use) float64 { return v.besides })
	if math.Abs(u.besides-besides) > max(farSigmas*spread, farSeconds) {
		return fmt.Sprintf("the client ran %.3g s besides what it measured, in the cell's %d others %.3g s", u.besides, len(all), besides)
	}
	return ""
}

// middle is the median; of an even number the mean of the two in the middle.
func middle(values []float64) float64 {
	x := slices.Sorted(slices.Values(values))
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}
