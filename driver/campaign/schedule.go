package campaign

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/plan"
	"hookbed/driver/workload"
)

// Waiting for a quiet computer.
const (
	loadWait = 10 * time.Minute // after which a trial runs, and is void
	loadPoll = 5 * time.Second  // the kernel recomputes the average as often
)

// passer is told of trials that the stopping rule passes over. A Progress may
// be one; the trials then no longer count as left to run.
type passer interface{ Passed(trials int) }

// due leaves out the trials that the stopping rule passes over, given the rows
// so far.
func (r *runner) due(trials []plan.Trial) []plan.Trial {
	var out []plan.Trial
	for _, t := range trials {
		if r.Dir.Stopped(t) {
			continue
		}
		out = append(out, t)
	}
	if p, ok := r.Progress.(passer); ok && len(out) < len(trials) {
		p.Passed(len(trials) - len(out))
	}
	return out
}

// awaitQuiet holds what follows back while the load average is above the
// plan's limit. The run's own machines load this computer too, so with VMs it
// is asked only where none of them runs: before a block boots. Past the bound
// the trials go on, and are void with r.loud as the reason.
func (r *runner) awaitQuiet(ctx context.Context) error {
	limit := r.Plan.Spec.Measure.LoadLimit
	r.loud = ""
	if limit == 0 {
		return nil
	}
	deadline := time.Now().Add(r.loadWait)
	for told := false; ; told = true {
		load, err := r.load()
		if err != nil {
			return fmt.Errorf("read the load average: %w", err)
		}
		if load <= limit {
			return nil
		}
		if !time.Now().Before(deadline) {
			r.loud = fmt.Sprintf("load average was %.2f after waiting %s, want at most %g", load, r.loadWait, limit)
			r.Log.Warn("the computer stays busy, trials will be void", "load", load, "limit", limit)
			return nil
		}
		if !told {
			r.Progress.Phase(fmt.Sprintf("wait for the load average to fall from %.2f to %g", load, limit))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.loadPoll):
		}
	}
}

// loadAverage is the number of runnable tasks over the last minute (proc(5)).
func loadAverage() (float64, error) {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	one, _, _ := strings.Cut(string(data), " ")
	return strconv.ParseFloat(one, 64)
}

// disturbed returns why something outside the trial spoilt its number, or "".
func (r *runner) disturbed(metrics []workload.Metric) string {
	if r.loud != "" {
		return r.loud
	}
	limit := r.Plan.Spec.Measure.StealLimit
	for _, m := range metrics {
		if limit > 0 && strings.HasPrefix(m.Name, workload.StealShareOf) && m.Value > limit {
			return fmt.Sprintf("%.3g %% of the CPUs' time was stolen (%s), want at most %.3g %%", 100*m.Value, m.Name, 100*limit)
		}
	}
	return ""
}
