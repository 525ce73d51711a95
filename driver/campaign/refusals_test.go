package campaign

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// A plan that wants refused attempts has them at the end of each trial: between marks, and then once
// more while the kernel records its drops. Other plans have trials without them.
func TestRefusalsFollowTheWorkload(t *testing.T) {
	p, err := plan.Trace(planOf(t, virtualExperiment), plan.Choice{Refusals: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range p.Blocks {
		s, err := Compose(p, b.Number)
		if err != nil {
			t.Fatal(err)
		}
		var do []bundle.Step
		for _, c := range s.Block.Setups[1].Trials[0].Run {
			do = append(do, c.Steps...)
		}
		at := len(do) - 4
		marked, recorded := do[at].Do.(bundle.Refusals), do[at+2].Do.(bundle.Refusals)
		if !marked.Marked || marked.Times != 5 || recorded.Marked || recorded.Times != recordedRefusals || marked.Try != recorded.Try || marked.Try.Want != bundle.Deny || do[at].In != datapath.Client {
			t.Errorf("block %d attempts %+v, and records %+v", b.Number, marked, recorded)
		}
		if _, ok := do[at+1].Do.(bundle.RecordDrops); !ok || do[at+3].Do.(bundle.EndRecord).Out != DropsFile {
			t.Errorf("block %d records by %+v and %+v", b.Number, do[at+1], do[at+3])
		}
	}
	for _, c := range []plan.Choice{{}, {Window: 3}} {
		if p, err = plan.Trace(planOf(t, virtualExperiment), c); err != nil {
			t.Fatal(err)
		}
		s, err := Compose(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(s.Block)
		if err != nil || bytes.Contains(data, []byte("refusals")) || bytes.Contains(data, []byte(DropsFile)) {
			t.Errorf("a trace without refusals has them, or %v", err)
		}
	}
}

// A setup whose proof has nothing denied has no refusals.
func TestNothingRefused(t *testing.T) {
	p := planOf(t, virtualExperiment)
	for _, cell := range p.Cells {
		setup, err := datapath.Render(cell)
		if err != nil {
			t.Fatal(err)
		}
		_, try, ok := Refused(setup)
		if want := cell.Int(plan.FactorPolicies) > 0; ok != want || ok && try.Want != bundle.Deny {
			t.Errorf("%s has %+v refused: %v, want %v", cell.Title(), try, ok, want)
		}
		p.Spec.Traced = &plan.Traced{Refusals: 5}
		if _, err := trialBundle(p, cell, setup); ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "refuse nothing") {
			t.Errorf("%s: %v", cell.Title(), err)
		}
	}
}
