package report

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/stat"
)

func overlaysOf(t *testing.T, c runstest.Cross) (Document, string) {
	t.Helper()
	out, _ := makeReport(t, Options{Resamples: 400}, c.Write(t))
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	return doc, read(t, out, "report.md")
}

// TestOverlayCosts: what an overlay adds is found by packet and by byte, apart
// from what the filter costs, and the report names a filter that it makes dearer.
func TestOverlayCosts(t *testing.T) {
	for _, stream := range []bool{false, true} {
		doc, text := overlaysOf(t, runstest.Tunnelled(runs.ClockVirtual, 6, stream))
		// A transaction is two packets; of a stream, v makes 2.4e5/v bit/s.
		scale := 0.5
		if stream {
			scale = 8 / 2.4e5
		}
		truth := map[string]map[int]float64{
			"legacy-vxlan": {0: 3e-6, 100: 4e-6, 1000: 13e-6}, "cilium-like-vxlan": {0: 4e-6, 100: 4e-6, 1000: 4e-6},
		}
		seen := 0
		for _, o := range doc.Overlays {
			want, ok := truth[o.Arm][o.Policies]
			if !ok {
				t.Fatalf("an overlay's cost of arm %s at N = %d", o.Arm, o.Policies)
			}
			seen++
			if !within(&o.Adds, want*scale) || !o.Adds.Excludes(0) {
				t.Errorf("%s at N = %d: adds %+v, want %g", o.Arm, o.Policies, o.Adds, want*scale)
			}
			if o.Ratio == nil || !o.Ratio.Excludes(1) || o.Ratio.Low <= 1 {
				t.Errorf("%s at N = %d: ratio %+v, want more than 1", o.Arm, o.Policies, o.Ratio)
			}
			if (o.EachAdds != nil) != (o.Policies == 1000) {
				t.Errorf("%s at N = %d: each policy %v", o.Arm, o.Policies, o.EachAdds)
			}
			if o.EachAdds == nil {
				continue
			}
			each := map[string]float64{"legacy-vxlan": 10e-9, "cilium-like-vxlan": 0}[o.Arm]
			if !within(o.EachAdds, each*scale) || o.EachAdds.Excludes(0) != (each > 0) {
				t.Errorf("%s: the overlay adds %+v to each policy, want %g", o.Arm, *o.EachAdds, each*scale)
			}
		}
		if seen != 6 {
			t.Errorf("%d costs, want two arms at three N", seen)
		}
		for _, want := range []string{"## What the overlay costs", "The clock is virtual: time is instructions", "virtual", "A policy costs something else with the overlay: legacy-vxlan.",
			"The study's two sides over the same overlay", "| vxlan | as-study |"} {
			if !strings.Contains(text, want) {
				t.Errorf("the report does not say %q", want)
			}
		}
	}
}

// TestOverlayOfOneBlock: without blocks to pair there are no intervals within
// them, and what cannot be said is not.
func TestOverlayOfOneBlock(t *testing.T) {
	doc, text := overlaysOf(t, runstest.Tunnelled(runs.ClockWall, 1, false))
	for _, o := range doc.Overlays {
		if o.Adds.Confidence != 0 || o.EachAdds != nil {
			t.Errorf("%s at N = %d, of one trial: %+v, %+v", o.Arm, o.Policies, o.Adds, o.EachAdds)
		}
	}
	if len(doc.Overlays) != 6 || !strings.Contains(text, "no interval") {
		t.Errorf("%d costs of one trial each", len(doc.Overlays))
	}
}

// TestNoOverlayNoSection: a run without overlays has no such section.
func TestNoOverlayNoSection(t *testing.T) {
	c := runstest.Tunnelled(runs.ClockWall, 3, false).Without("legacy-vxlan", "cilium-like-vxlan", "lonely-vxlan")
	if doc, text := overlaysOf(t, c); len(doc.Overlays) > 0 || strings.Contains(text, "overlay") {
		t.Errorf("a run without overlays says %d things of them", len(doc.Overlays))
	}
}

// TestOverlayOfSwarm: Docker's own overlay is next to VXLAN, against the same
// arm without, though it says nothing of checksums.
func TestOverlayOfSwarm(t *testing.T) {
	c := runstest.Tunnelled(runs.ClockWall, 6, false).Without("cilium-like", "cilium-like-vxlan", "lonely-vxlan")
	own := maps.Clone(c.Arms[0].Options)
	own["overlay"] = "docker-overlay"
	c.Arms = append(c.Arms, runstest.CrossArm{Name: "legacy-swarm", Fabric: "bridge", Filter: "iptables-legacy", Options: own, Cost: runstest.Each(56, 0.05)})
	doc, text := overlaysOf(t, c)
	truth := map[string]float64{"legacy-vxlan": 1.5e-6, "legacy-swarm": 3e-6} // a packet, at N = 0
	for _, o := range doc.Overlays {
		if o.Policies == 0 {
			if want := truth[o.Arm]; o.Without != "legacy" || !within(&o.Adds, want) {
				t.Errorf("%s adds %+v to %s, want %g", o.Arm, o.Adds, o.Without, want)
			}
			delete(truth, o.Arm)
		}
	}
	if len(truth) > 0 {
		t.Errorf("no cost of %v", truth)
	}
	if !strings.Contains(text, "overlay docker-overlay") || strings.Contains(text, "docker-overlay, udpcsum") {
		t.Error("the report does not name docker-overlay, or gives it a checksum option")
	}
}

// within reports whether a value lies within twice an interval: one in twenty lies
// outside it, and these tests draw once.
func within(v *stat.Estimate, truth float64) bool {
	return truth >= v.Low-(v.Estimate-v.Low) && truth <= v.High+(v.High-v.Estimate)
}
