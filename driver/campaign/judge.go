package campaign

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
)

// finding is the result of a trial that ended.
type finding struct {
	metrics []workload.Metric
	void    string // why the metrics must not be used, or ""
	use     use    // of the client, to compare the cell's other trials with
}

// judge reads what a trial measured. An error means that there is no number.
func (r *runner) judge(cell plan.Cell, setup datapath.Setup, raw string, measured lab.Execution, seen around) (finding, error) {
	var v finding
	from := os.DirFS(filepath.Join(r.Dir.Path(), filepath.Dir(raw)))
	var err error
	if v.metrics, err = workload.Parse(cell, from); err != nil {
		return v, err
	}
	clients, err := workload.Evidences(cell, from)
	if err != nil {
		return v, err
	}
	v.void = seen.clock
	if v.void == "" {
		v.void = r.guard(setup, workload.LeastTraffic(clients), measured)
	}
	if v.void == "" {
		v.void = r.disturbed(v.metrics)
	}
	if r.replay { // in virtual time no program is stopped
		return v, nil
	}
	waited, known := workload.Waited(from)
	v.use = useOf(measured, clients, waited)
	for _, look := range []func() string{
		func() string { return stopped(measured) },
		func() string { return hollow(workload.HoleOf(clients), max(waited, seen.waited), known, v.metrics) },
		func() string { return r.others.unlike(cell.ID, v.use) },
	} {
		if v.void == "" {
			v.void = look()
		}
	}
	return v, nil
}

// guard returns why the trial's number must not be used, or "".
func (r *runner) guard(setup datapath.Setup, least workload.Traffic, ex lab.Execution) string {
	if setup.Hook != nil {
		if seen := hookTraffic(ex); seen.Packets < least.Packets || seen.Bytes < least.Bytes {
			return fmt.Sprintf("the filter saw %.0f packets and %.0f bytes, the workload sent at least %.0f and %.0f: traffic went past it",
				seen.Packets, seen.Bytes, least.Packets, least.Bytes)
		}
	}
	if setup.Tunnel != nil {
		return tunnelGuard(least, tunnelTraffic(ex))
	}
	return ""
}

// notFinite names the first metric that a row cannot hold (NaN or infinite), or "".
// It is the trial's fault, not the rig's: the next trial may be correct.
func notFinite(metrics []workload.Metric) string {
	for _, m := range metrics {
		if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) {
			return fmt.Sprintf("metric %s is %v, want a finite number", m.Name, m.Value)
		}
	}
	return ""
}
