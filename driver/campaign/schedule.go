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

// passer receives the number of trials that the stopping rule passes over. A
// Progress may be one; the trials then no longer count as left to run.
type passer interface{ Passed(trials int) }

// due are the trials that the stopping rule, given the rows so far, does not pass
// over.
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

// awaitQuiet waits while the load average is above the plan's limit. The run's own
// machines load this computer too, so with VMs it is called only while none of them
// runs: before a block boots. After loadWait the trials run anyway, and are void with
// r.busy as the reason.
func (r *runner) awaitQuiet(ctx context.Context) error {
	limit := r.Plan.Spec.Measure.LoadLimit
	r.busy = ""
	if limit == 0 {
		return nil
	}
	deadline := time.Now().Add(r.loadWait)
	for reported := false; ; reported = true {
		load, err := r.load()
		if err != nil {
			return fmt.Errorf("read the load average: %w", err)
		}
		if load <= limit {
			return nil
		}
		if !time.Now().Before(deadline) {
			r.busy = fmt.Sprintf("load average was %.2f after waiting %s, want at most %g", load, r.loadWait, limit)
			r.Log.Warn("the computer stays busy, trials will be void", "load", load, "limit", limit)
			return nil
		}
		if !reported {
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

// disturbed returns why the trial's number is not valid because of something
// outside the trial, or "".
func (r *runner) disturbed(metrics []workload.Metric) string {
	if r.busy != "" {
		return r.busy
	}
	limit := r.Plan.Spec.Measure.StealLimit
	for _, m := range metrics {
		if limit > 0 && strings.HasPrefix(m.Name, workload.StealShareOf) && m.Value > limit {
			return fmt.Sprintf("%.3g %% of the CPUs' time was stolen (%s), want at most %.3g %%", 100*m.Value, m.Name, 100*limit)
		}
	}
	return ""
}
