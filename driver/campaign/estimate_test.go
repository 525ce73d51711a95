package campaign

import (
	"testing"
	"time"

	"hookbed/driver/plan"
)

// A trace costs what an untraced boot costs, its own share of each boot, and more for each measured
// second; guests at once share it.
func TestEstimateOfTraces(t *testing.T) {
	p, err := plan.Trace(planOf(t, virtualExperiment), plan.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	plain := *p
	plain.Spec.Traced = nil
	boots := len(p.Blocks)
	want := Estimate(&plain, 1) + time.Duration(boots)*tracedBoot + tracedPace*p.Measuring()
	if got := Estimate(p, 1); boots < 2 || got < want-time.Second || got > want+time.Second {
		t.Errorf("%s, want %s: untraced %s, %d boots, %s measured", got, want, Estimate(&plain, 1), boots, p.Measuring())
	}
	if one, all := Estimate(p, 1), Estimate(p, boots); all*time.Duration(boots) != one {
		t.Errorf("%d guests at once need %s, and one after the other %s", boots, all, one)
	}
}
