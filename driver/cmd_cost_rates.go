package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"hookbed/analysis/record"
	"hookbed/driver/cost"
	"hookbed/driver/plan"
)

// rates measures the packet rate of every arm of an experiment.
func (a *app) rates(ctx context.Context, file string, f costFlags) error {
	p, err := loadPlan(file)
	if err != nil {
		return err
	}
	if !p.Spec.Lab.Capabilities().Here() {
		return fmt.Errorf("%w: %s: packet rates are measured on this computer; write lab.provider = %q", errUsage, file, plan.ProviderLocal)
	}
	out, err := f.output("rate")
	if err != nil {
		return err
	}
	defer out.Close()
	l, err := a.costLab(ctx, p, needsExternal(p))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close(ctx) }() // namespaces end with the helper
	env := a.costEnvironment(l, f)
	env["experiment"], env["seconds"] = p.Spec.Name, f.seconds
	if err := out.Environment(env); err != nil {
		return err
	}
	rates, err := cost.Rates(ctx, cost.RateConfig{Lab: l, Plan: p, Rounds: f.rounds, Seed: f.seed, CPU: f.cpu, Seconds: f.seconds, Progress: a.rateProgress(), Sample: out.RateSample})
	if err != nil {
		return rigFault(ctx, err)
	}
	machine := cost.ThisMachine()
	if err := out.Rates(rates, f.rounds, machine); err != nil {
		return err
	}
	failed := 0
	for _, r := range rates {
		if r.Status == record.StatusFailed || r.Status == record.StatusVoid {
			failed++
		}
		if a.json {
			a.line(map[string]any{"type": "rate", "rate": r.Summary()})
		}
	}
	a.emit("rates", map[string]any{"dir": out.Dir(), "machine": machine}, func(w io.Writer) { printTables(w, []cost.Table{cost.RateTable(rates, f.rounds, machine)}, out.Dir()) })
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d; reasons are in %s", errFailedCells, failed, len(rates), filepath.Join(out.Dir(), "rates.csv"))
	}
	return nil
}
