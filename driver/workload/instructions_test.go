package workload

import (
	"encoding/json"
	"testing"
	"testing/fstest"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// around makes the snapshots of a workload that took wall seconds, idle of them idle.
func around(t *testing.T, wall, idle float64) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	for name, a := range map[string]bundle.Activity{
		rawClientBefore: {UnixNano: 5e9, CPU: map[string]float64{"idle": 100}},
		rawClientAfter:  {UnixNano: 5e9 + int64(wall*1e9), CPU: map[string]float64{"idle": 100 + idle}},
	} {
		data, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = &fstest.MapFile{Data: data}
	}
	return out
}

// TestInstructionsOfAWorkload: 125 million instructions a second of virtual time.
func TestInstructionsOfAWorkload(t *testing.T) {
	virtual := func(workload string) plan.Cell {
		c := cellOf(workload) // 3 s
		c.Factors[plan.FactorClock] = plan.ClockVirtual
		return c
	}
	for name, c := range map[string]struct {
		cell       plan.Cell
		wall, idle float64
		metric     Metric
		want       []Metric
	}{
		"never idle":                {virtual("TCP_RR"), 3.1, 0, Metric{"rate", "1/s", 2500}, []Metric{{"instructions_per_transaction", "1", 50_000}}},
		"idle around it only":       {virtual("TCP_CRR"), 7.1, 4.1, Metric{"rate", "1/s", 500}, []Metric{{"instructions_per_transaction", "1", 250_000}}},
		"idle a third of it":        {virtual("TCP_RR"), 3.5, 1.5, Metric{"rate", "1/s", 1000}, []Metric{{"instructions_per_transaction", "1", 125e3 * (1 - 1.0/3)}}},
		"bytes":                     {virtual("TCP_STREAM"), 4.1, 0, Metric{"throughput", "bit/s", 8 * (1 << 20) * 100}, []Metric{{"instructions_per_mib", "1", 1.25e6}}},
		"no instructions on a wall": {cellOf("TCP_RR"), 3, 0, Metric{"rate", "1/s", 2500}, nil},
	} {
		w, err := find(c.cell)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.instructions(c.cell, around(t, c.wall, c.idle), []Metric{c.metric})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i, w := range c.want {
			if got[i].Name != w.Name || got[i].Unit != w.Unit || got[i].Value/w.Value < 1-1e-9 || got[i].Value/w.Value > 1+1e-9 {
				t.Errorf("%s: %v, want %v", name, got[i], w)
			}
		}
	}
}
