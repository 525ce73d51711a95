package rundir

import (
	"path/filepath"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
)

// The rule uses the headline metric of the plan's own catalog, whether higher or
// lower is better; a plan of schema 1 has the metric of that schema.
func TestStoppingRuleLooksAtTheHeadline(t *testing.T) {
	latency := catalog.Workload{Name: "TCP_RR", Headline: []catalog.Metric{{Name: "latency_mean", Unit: "s"}, {Name: "rate", Unit: "1/s", Higher: true}}}
	for name, c := range map[string]struct {
		schema int
		metric string
		want   [3]int
	}{
		"headline":               {2, "latency_mean", [3]int{5, 2, 2}},
		"another":                {2, "rate", [3]int{5, 5, 5}},
		"headline of schema 1":   {1, "rate", [3]int{5, 2, 2}},
		"another, with schema 1": {1, "latency_mean", [3]int{5, 5, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			p := makePlan(t, stopping)
			p.Catalog.Workloads = []catalog.Workload{latency}
			if p.Schema = c.schema; p.Schema == 1 {
				p.Catalog = nil
			}
			d, err := Create(filepath.Join(t.TempDir(), "run"), p)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Close() })
			ran, n := map[int]int{}, 0
			for _, tr := range p.Trials {
				if d.Stopped(tr) {
					continue
				}
				rows := rowsOf(d, tr, record.StatusOK, 1)
				rows[0].Metric, rows[0].Value = c.metric, 100+float64(n%2)
				if err := d.AppendRows(rows); err != nil {
					t.Fatal(err)
				}
				ran[tr.Block]++
				n++
			}
			if got := [3]int{ran[1], ran[2], ran[3]}; got != c.want {
				t.Errorf("trials a block %v, want %v", got, c.want)
			}
		})
	}
}
