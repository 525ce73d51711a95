// Package invented writes runs of plans in an invented world, for tests of what reads runs: each
// trial has a number, and the truth behind it is known. Equal plans give equal files.
package invented

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/driver/plan"
)

// Seconds is the time of an arm's transaction in the invented world: a fabric has a path, a filter
// adds to it, and a list costs per policy if every packet passes it.
func Seconds(c plan.Cell) float64 {
	t := map[string]float64{"bridge": 30e-6, "routed": 28e-6, "bpf": 22e-6, "cilium": 23e-6, "veth": 18e-6}[c.Get(plan.FactorFabric)]
	filter, option := c.Get(plan.FactorFilter), func(key string) string { return c.Factors[key] }
	switch {
	case filter == "none" || filter == "offloads-off":
	case strings.HasPrefix(filter, "xdp"):
		t += 0.5e-6
	default:
		t += 1e-6
	}
	list := strings.HasSuffix(filter, "-linear") || strings.HasPrefix(filter, "iptables") || option("form") == "linear"
	walks := option("state") != "established-first" && option("enforce") != "new" || c.Get(plan.FactorWorkload) == "TCP_CRR"
	if list && walks {
		t += 40e-9 * float64(c.Int(plan.FactorPolicies))
	}
	if o := option("overlay"); o != "" && o != "none" {
		t += 6e-6
	}
	spin, _ := strconv.ParseFloat(option("spin"), 64)
	t += 16e-9 * spin
	if c.Get(plan.FactorScenario) == plan.MultiHost {
		t *= 2
	}
	return t
}

// Write writes plan.json, env.json and rows.csv of a run of the plan into a directory that is there.
// A trial's numbers differ from the truth by some tenths of a percent. A nil environment is that
// of an emulated run.
func Write(dir string, p *plan.Plan, env map[string]any) error {
	data, err := p.Encode()
	if err != nil {
		return err
	}
	rows, err := rowsOf(p)
	if err != nil {
		return err
	}
	if env == nil {
		env = map[string]any{"accelerator": "tcg"}
	}
	around, err := json.Marshal(env)
	if err != nil {
		return fmt.Errorf("encode environment: %w", err)
	}
	for name, data := range map[string][]byte{"plan.json": data, "env.json": around, "rows.csv": rows} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("write invented run: %w", err)
		}
	}
	return nil
}

// rowsOf is the rows.csv of a run.
func rowsOf(p *plan.Plan) ([]byte, error) {
	rng, names := rand.New(rand.NewPCG(3, p.Spec.Seed)), p.FactorNames()
	out := bytes.NewBuffer(record.EncodeHeader(names))
	for _, trial := range p.Trials {
		c, _ := p.CellByID(trial.Cell)
		factors := map[string]string{}
		for f, level := range c.Factors {
			factors[f] = level
		}
		if b, ok := p.BlockByNumber(trial.Block); ok && b.Seed > 0 {
			factors[plan.FactorSeed] = strconv.Itoa(b.Seed)
		}
		rows := measured(rng, c)
		for i := range rows {
			rows[i].Run, rows[i].Cell, rows[i].Order, rows[i].Block, rows[i].Trial, rows[i].Factors = p.Spec.Name, c.ID, trial.Order, trial.Block, trial.Trial, factors
		}
		lines, err := record.Encode(names, rows)
		if err != nil {
			return nil, err
		}
		out.Write(lines)
	}
	return out.Bytes(), nil
}

// measured are the rows of one trial.
func measured(rng *rand.Rand, c plan.Cell) []record.Row {
	t := Seconds(c) * math.Exp(rng.NormFloat64()*0.004)
	m := func(metric, unit string, v float64) record.Row {
		return record.Row{Status: record.StatusOK, Metric: metric, Unit: unit, Value: v}
	}
	n := float64(c.Int(plan.FactorPolicies))
	rows := []record.Row{m("policies_realised", "1", n), m("probes_allowed", "1", 1), m("cpu.server_node", "1", 1), m("apply_seconds", "s", 0.1)}
	if n > 0 {
		rows = append(rows, m("probes_denied", "1", 3), m("hook_packets", "1", 4/t))
	}
	if spin := c.Factors["spin"]; spin != "" {
		known, _ := strconv.ParseFloat(spin, 64)
		rows = append(rows, m("known_added_instructions", "1", known))
		if n == 0 {
			rows = append(rows, m("hook_packets", "1", 4/t))
		}
	}
	instructions := func(metric string, seconds float64) {
		if c.Get(plan.FactorClock) == plan.ClockVirtual {
			rows = append(rows, m(metric, "1", seconds*1e9/plan.InstructionNanoseconds))
		}
	}
	switch c.Get(plan.FactorWorkload) {
	case "TCP_STREAM":
		instructions("instructions_per_mib", (8<<20)/(2.4e5/t))
		return append(rows, m("throughput", "bit/s", 2.4e5/t), m("retransmits", "1", float64(rng.IntN(4))), m("rtt_mean", "s", t))
	case "TCP_CRR":
		t *= 4
	}
	instructions("instructions_per_transaction", t)
	return append(rows, m("rate", "1/s", 1/t), m("latency_mean", "s", t), m("latency_p50", "s", t*0.97), m("latency_p90", "s", t*1.4), m("latency_p99", "s", t*1.9))
}
