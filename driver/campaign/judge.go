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

// judge reads what a trial measured, and why its number must not be used, or "". An
// error means that there is no number.
func (r *runner) judge(cell plan.Cell, setup datapath.Setup, raw string, measured lab.Execution) ([]workload.Metric, string, error) {
	from := os.DirFS(filepath.Join(r.Dir.Path(), filepath.Dir(raw)))
	metrics, err := workload.Parse(cell, from)
	if err != nil {
		return nil, "", err
	}
	clients, err := workload.Evidences(cell, from)
	if err != nil {
		return nil, "", err
	}
	reason := r.guard(setup, workload.LeastTraffic(clients), measured)
	if reason == "" {
		reason = r.disturbed(metrics)
	}
	if reason == "" && !r.replay { // virtual time has no holes
		reason = workload.Hole(clients)
	}
	return metrics, reason, nil
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

// notFinite names the first metric that is no number which a row can hold, or "".
// It is the trial's fault, not the rig's: the next one may be well.
func notFinite(metrics []workload.Metric) string {
	for _, m := range metrics {
		if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) {
			return fmt.Sprintf("metric %s is %v, want a finite number", m.Name, m.Value)
		}
	}
	return ""
}
