package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/cost"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// sealedMemory is the memory of a guest that counts, in MiB, as an experiment's.
const sealedMemory = 1024

// costVirtual counts the instructions of programs in sealed guests.
func (a *app) costVirtual(ctx context.Context, f costFlags) error {
	out, err := cost.NewCountOutput(f.directory("cost"))
	if err != nil {
		return err
	}
	external, digest, err := a.externalPrograms(ctx, f)
	if err != nil {
		return err
	}
	counts, env, err := a.countSealed(ctx, f, external)
	if err != nil {
		return rigFault(ctx, err)
	}
	env["peers_sha256"] = digest
	if err := errors.Join(out.Environment(env), out.Counts(counts, f.kernel)); err != nil {
		return err
	}
	a.sayCounts(counts, f, cost.CountTables(counts, f.kernel), out.Dir())
	return failedCounts(counts, out.Dir())
}

// costBoth counts what was measured on the wall clock too, into the same directory.
func (a *app) costBoth(ctx context.Context, f costFlags, out *cost.Output, cells []*cost.Cell, env map[string]any, external cost.Environment) error {
	counts, virtual, err := a.countSealed(ctx, f, external)
	if err != nil {
		return rigFault(ctx, err)
	}
	env["virtual"] = virtual
	if err := errors.Join(out.Environment(env), out.Counts(counts, f.kernel), out.Both(cells, counts, cost.ThisMachine())); err != nil {
		return err
	}
	a.sayCounts(counts, f, append(cost.CountTables(counts, f.kernel), cost.BothTable(cells, counts, cost.ThisMachine())), out.Dir())
	return failedCounts(counts, out.Dir())
}

// countSealed counts in sealed guests, and describes them.
func (a *app) countSealed(ctx context.Context, f costFlags, external cost.Environment) (counts []*cost.Count, env map[string]any, err error) {
	p := &plan.Plan{Spec: plan.Spec{Lab: plan.Lab{
		Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointNetns, Clock: plan.ClockVirtual,
		Accel: plan.AccelTCG, Kernel: f.kernel, VCPUs: 1, Memory: sealedMemory,
	}}}
	cfg, err := a.labConfig(ctx, p, "")
	if err != nil {
		return nil, nil, err
	}
	cfg.External = external.NoExternal == ""
	sealer, err := lab.OpenSealer(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if cerr := sealer.Close(ctx); err == nil {
			err = cerr
		}
	}()
	facts, err := sealer.Environment(ctx)
	if err != nil {
		return nil, nil, err
	}
	jobs := f.jobs
	if jobs == 0 {
		jobs = lab.Jobs(sealedMemory)
	}
	counts, err = cost.CountInstructions(ctx, cost.CountConfig{
		Subjects: f.subjects(), Policies: f.policies, Seed: f.seed, Kernel: f.kernel, External: external,
		Jobs: jobs, Boot: sealer.Run, Progress: a.countProgress(),
	})
	return counts, a.countEnvironment(p, facts, f, jobs), err
}

func (a *app) countEnvironment(p *plan.Plan, facts lab.Environment, f costFlags, jobs int) map[string]any {
	env := campaign.Environment(p, revision, facts.Entries())
	for _, key := range []string{"experiment", "plan_sha256"} {
		delete(env, key)
	}
	env["seed"], env["jobs"], env["command"] = f.seed, jobs, os.Args
	return env
}

// sayCounts writes the tables, or a line of JSON for each count.
func (a *app) sayCounts(counts []*cost.Count, f costFlags, tables []cost.Table, dir string) {
	if a.json {
		for _, c := range counts {
			a.line(map[string]any{"type": "count", "count": c})
		}
	}
	a.emit("counts", map[string]any{"dir": dir, "clock": plan.ClockVirtual, "kernel": f.kernel}, func(w io.Writer) { printTables(w, tables, dir) })
}

func failedCounts(counts []*cost.Count, dir string) error {
	failed := 0
	for _, c := range counts {
		if c.Status == record.StatusFailed || c.Status == record.StatusVoid {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d; reasons are in %s", errFailedCells, failed, len(counts), filepath.Join(dir, "instructions.csv"))
	}
	return nil
}

// countProgress reports each guest that has ended, and how long the rest takes at this pace.
func (a *app) countProgress() func(done, total int, what string) {
	start := time.Now()
	return func(done, total int, what string) {
		left := time.Duration(float64(time.Since(start)) / float64(done) * float64(total-done))
		a.say("%6.1fs  %d/%d  %s  about %s left", time.Since(start).Seconds(), done, total, what, left.Round(time.Second))
	}
}
