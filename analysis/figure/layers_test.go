package figure

import (
	"fmt"
	"strings"
	"testing"

	"gonum.org/v1/plot/vg"

	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
)

// tracesOf are invented traces of seven arms at two N, of two workloads.
func tracesOf() []trace.Trace {
	var out []trace.Trace
	for _, w := range []string{tracetest.RR, tracetest.Stream} {
		for i, a := range []string{tracetest.Docker, tracetest.Iptables, tracetest.Iptables, tracetest.NftSet, tracetest.TCHash, tracetest.CiliumLike, tracetest.XDP} {
			for _, n := range []int{0, 100} {
				t := tracetest.New(fmt.Sprintf("%s-%d-%d", w, i, n), a, w, n)
				if i == 2 {
					t.Factors["arm"] = "iptables-established-first"
				}
				out = append(out, t)
			}
		}
	}
	return out
}

// TestLayers: a picture for each workload, whose legend is no wider than it is and whose parts are
// the whole.
func TestLayers(t *testing.T) {
	all := tracesOf()
	figures := Layers(all)
	if len(figures) != 2 || figures[0].Name != "layers-tcp-rr--localhost" {
		t.Fatalf("%d figures", len(figures))
	}
	for i, g := range stackGroups(all) {
		c := newStackChart([]stackGroup{g})
		if len(g.rows) != 14 || len(c.layers) < 12 || len(c.layers) > 24 {
			t.Errorf("%s: %d bars with %d layers", g.head, len(g.rows), len(c.layers))
		}
		for _, row := range c.legend() {
			width := vg.Length(18)
			for _, p := range row {
				width += legendRoom(p.name)
			}
			if width > figWidth {
				t.Errorf("%s: the legend is %.0f wide", g.head, width)
			}
		}
		for _, r := range g.rows {
			sum := 0.0
			for _, p := range c.partsOf(r) {
				sum += p.value
			}
			if sum < r.total*0.999999 || sum > r.total*1.000001 {
				t.Errorf("%s: the parts of %s are %g of %g", g.head, r.label, sum, r.total)
			}
		}
		svg := string(figures[i].SVG)
		for _, want := range []string{"<title>", "iptables-established-first, N = 100, iptables rules: ", ">smaller layers</text>"} {
			if !strings.Contains(svg, want) {
				t.Errorf("%s lacks %q", figures[i].Name, want)
			}
		}
		if !strings.HasPrefix(string(figures[i].CSV), "group,label,unit,layer,instructions_per_unit\n") {
			t.Errorf("%s: %s", figures[i].Name, figures[i].CSV[:50])
		}
	}
}

// TestAllLayers: a run's picture has a scale for each unit.
func TestAllLayers(t *testing.T) {
	svg := string(AllLayers(tracesOf()))
	for _, want := range []string{"TCP_RR, localhost, a transaction", "TCP_STREAM, localhost, a MiB"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
	if string(AllLayers(tracesOf())) != svg {
		t.Error("drawn twice, it differs")
	}
	if AllLayers(nil) != nil {
		t.Error("no trace has a picture")
	}
}
