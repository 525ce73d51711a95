package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

type runFlags struct {
	out, resume, only, drift, shard string
	jobs                            int
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a whole experiment, with progress and ETA",
		Long: `Run brings the lab up, measures every trial of the plan in its seeded order and
appends each trial's rows to rows.csv in the run directory, synced to disk. A run
that was interrupted or killed goes on with --resume: every trial once, none lost.`,
		Example: `  driver run experiments/smoke.toml
  driver run experiments/full.toml --out runs/full
  driver run --resume runs/full
  driver run experiments/full.toml --only 'arm=cilium-like,scenario=localhost'
  driver run experiments/virtual.toml --jobs 8
  driver run experiments/virtual.toml --shard 1/3`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 0 && f.resume != "" {
				return nil
			}
			return fmt.Errorf("%w: `driver run` takes one experiment file, or --resume DIR; see `driver run --help`", errUsage)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file := ""
			if len(args) > 0 {
				file = args[0]
			}
			return a.run(cmd.Context(), file, f)
		},
	}
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "run directory to make (default runs/NAME-TIME)")
	cmd.Flags().StringVar(&f.resume, "resume", "", "go on with this run directory")
	cmd.Flags().StringVar(&f.only, "only", "", "run only the cells that match, as in 'arm=docker|xdp,scenario!=multi-host'")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "in virtual time, guests at once (default: one a CPU, as memory permits); numbers do not depend on it")
	cmd.Flags().StringVar(&f.shard, "shard", "", "run only share `i/n` of the blocks, as in 2/3; \"driver merge\" joins them")
	driftFlag(cmd, &f.drift)
	return cmd
}

func (a *app) run(ctx context.Context, file string, f runFlags) error {
	dir, p, err := openRun(file, f)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := checkClockFlags(p, f); err != nil {
		return err
	}
	trials, err := pending(dir, p, f.only)
	if err != nil {
		return err
	}
	a.interruptHint = fmt.Sprintf("nothing is left running; go on with `driver run --resume %s`", dir.Path())
	a.say("run directory %s: %d of %d trials to run, about %s", dir.Path(), len(trials), len(p.Trials), f.remaining(p, len(trials)).Round(time.Second))
	start := time.Now()
	result, err := a.measure(ctx, p, dir, trials, f)
	if err != nil {
		if f.resume == "" && len(result.Status) == 0 && ctx.Err() == nil {
			// Nothing was measured and nothing can be resumed.
			err = errors.Join(err, os.RemoveAll(dir.Path()))
		}
		return err
	}
	a.emit("run", map[string]any{"dir": dir.Path(), "status": result.Status, "seconds": result.Seconds, "total_seconds": time.Since(start).Seconds()}, func(w io.Writer) {
		printResult(w, dir, result, time.Since(start))
	})
	if n := result.Failed() + result.Status[record.StatusRig]; n > 0 {
		return fmt.Errorf("%w: %d of %d trials; reasons are in %s", errFailedCells, n, len(trials), filepath.Join(dir.Path(), "rows.csv"))
	}
	return nil
}

// remaining is the estimated time of the trials that are left to run.
func (f runFlags) remaining(p *plan.Plan, trials int) time.Duration {
	jobs := f.jobs
	if jobs == 0 {
		jobs = lab.Jobs(p.Spec.Lab.Memory)
	}
	return time.Duration(float64(estimate(p, jobs)) * float64(trials) / float64(len(p.Trials)))
}

func openRun(file string, f runFlags) (*rundir.Dir, *plan.Plan, error) {
	if f.resume != "" {
		if f.shard != "" {
			return nil, nil, fmt.Errorf("%w: --shard cannot change on --resume; the run directory knows its share", errUsage)
		}
		dir, err := rundir.Open(f.resume)
		if err != nil {
			return nil, nil, err
		}
		if file == "" {
			return dir, dir.Plan(), nil
		}
		p, err := loadPlan(file)
		if err == nil {
			err = dir.Check(p)
		}
		if err != nil {
			return nil, nil, errors.Join(err, dir.Close())
		}
		return dir, p, nil
	}
	p, err := loadPlan(file)
	if err != nil {
		return nil, nil, err
	}
	var shard rundir.Shard
	if f.shard != "" {
		if shard, err = rundir.ParseShard(f.shard); err == nil {
			err = shard.Check(p)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: --shard: %w", errUsage, err)
		}
	}
	out := f.out
	if out == "" {
		out = filepath.Join("runs", p.Spec.Name+"-"+time.Now().Format("20060102-150405"))
	}
	dir, err := rundir.CreateShard(out, p, shard)
	if errors.Is(err, rundir.ErrNotEmpty) {
		err = fmt.Errorf("%w; go on with `driver run --resume %s`, or give another directory with --out", err, out)
	}
	return dir, p, err
}

// pending is the plan minus what is done and what --only leaves out.
func pending(dir *rundir.Dir, p *plan.Plan, only string) ([]plan.Trial, error) {
	match, err := p.Filter(only)
	if err != nil {
		return nil, fmt.Errorf("%w: --only: %w", errUsage, err)
	}
	var out []plan.Trial
	for _, t := range dir.Pending() {
		if c, _ := p.CellByID(t.Cell); match(c) {
			out = append(out, t)
		}
	}
	return out, nil
}

// checkClockFlags refuses flags that the experiment's clock makes meaningless.
func checkClockFlags(p *plan.Plan, f runFlags) error {
	virtual := p.Spec.Lab.Clock == plan.ClockVirtual
	switch {
	case f.jobs < 0:
		return fmt.Errorf("%w: --jobs is %d, want 1 or more", errUsage, f.jobs)
	case !virtual && f.jobs > 1:
		return fmt.Errorf("%w: --jobs is for virtual time; trials on the wall clock never run side by side", errUsage)
	case virtual && f.only != "":
		return fmt.Errorf("%w: --only would change what runs before what within a boot, and with it every number in virtual time; write an experiment with the cells you want", errUsage)
	}
	return nil
}

func (a *app) measure(ctx context.Context, p *plan.Plan, dir *rundir.Dir, trials []plan.Trial, f runFlags) (campaign.Result, error) {
	if len(trials) == 0 {
		return campaign.Result{}, nil
	}
	cfg, err := a.labConfig(ctx, p, f.drift)
	if err != nil {
		return campaign.Result{}, err
	}
	progress, stop := a.newProgress(len(trials))
	defer stop()
	run := campaign.Config{Plan: p, Dir: dir, Trials: trials, Progress: progress, Log: a.logger()}
	if p.Spec.Lab.Clock == plan.ClockVirtual {
		return a.measureSealed(ctx, run, cfg, f.jobs)
	}
	run.Up = func(ctx context.Context, block int) (*lab.Lab, error) {
		cfg := cfg
		cfg.Lab = p.LabOf(block)
		return lab.Up(ctx, cfg)
	}
	run.Environment = func(l *lab.Lab) map[string]any {
		env := environment(p, l.Environment())
		env["lab_seconds"] = l.Timings
		return env
	}
	return campaign.Run(ctx, run)
}

// labConfig prepares what labs of an experiment have in common, and clears
// what killed runs left.
func (a *app) labConfig(ctx context.Context, p *plan.Plan, drift string) (lab.Config, error) {
	root, err := stateRoot()
	if err != nil {
		return lab.Config{}, err
	}
	a.sayStrays(root)
	if swept, err := lab.Sweep(ctx, root); err != nil {
		return lab.Config{}, err
	} else if len(swept) > 0 {
		a.say("cleared what killed runs left: %v", swept)
	}
	swept, err := lab.SweepRemote(ctx, root)
	if len(swept) > 0 {
		a.say("cleared what killed runs left on hypervisors: %v", swept)
	}
	if err != nil {
		a.say("not cleared, `driver down NAME` tries again: %v", err)
	}
	store, err := a.openStore(drift)
	if err != nil {
		return lab.Config{}, err
	}
	guest, err := guestHelper()
	if err != nil {
		return lab.Config{}, err
	}
	name := lab.FreshName(root, "r")
	return lab.Config{
		Name: name, Experiment: p.Spec.Name, Lab: p.Spec.Lab, Kernels: p.Spec.Kernels, Nodes: nodesOf(p), Store: store,
		StateDir: filepath.Join(root, name), GuestPath: guest, Peers: needsPeers(p), Swarm: needsSwarm(p), Log: a.logger(),
	}, nil
}

// measureSealed runs blocks in sealed guests, several at once.
func (a *app) measureSealed(ctx context.Context, run campaign.Config, cfg lab.Config, jobs int) (campaign.Result, error) {
	sealer, err := lab.OpenSealer(ctx, cfg)
	if err != nil {
		return campaign.Result{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	defer func() {
		if err := sealer.Close(ctx); err != nil {
			run.Log.Warn("teardown", "err", err)
		}
	}()
	facts, err := sealer.Environment(ctx)
	if err != nil {
		return campaign.Result{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	if jobs == 0 {
		jobs = lab.Jobs(cfg.Lab.Memory)
	}
	env := environment(run.Plan, facts)
	env["jobs"] = jobs
	return campaign.RunSealed(ctx, campaign.SealedConfig{Config: run, Jobs: jobs, Boot: sealer.Run, Facts: env})
}

// environment is env.json: what the lab says and what only the driver knows.
func environment(p *plan.Plan, lab map[string]any) map[string]any {
	env := map[string]any{
		"hookbed_revision": revision, "experiment": p.Spec.Name, "seed": p.Spec.Seed, "clock": p.Spec.Lab.Clock,
		"started": time.Now().UTC().Format(time.RFC3339),
	}
	if digest, err := p.Digest(); err == nil {
		env["plan_sha256"] = digest
	}
	maps.Copy(env, hostFacts())
	if digests, err := bundleDigests(p); err == nil {
		env["bundle_sha256"] = digests
	}
	maps.Copy(env, lab)
	return env
}

// hostFacts describes the computer the driver runs on.
func hostFacts() map[string]any {
	out := map[string]any{"host_cpus": runtime.NumCPU()}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		out["host_load"] = strings.TrimSpace(string(load))
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		out["host_kernel"] = strings.TrimSpace(string(release))
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			out["host_cpu"] = strings.TrimSpace(value)
			break
		}
	}
	return out
}

// bundleDigests is the SHA-256 of every cell's bundle - rule sets, maps, BPF
// objects and steps - so that a number can be traced to what was applied.
func bundleDigests(p *plan.Plan) (map[string]string, error) {
	out := map[string]string{}
	for _, c := range p.Cells {
		setup, err := datapath.Render(c)
		if err != nil {
			return nil, err
		}
		b, err := campaign.Bundle(c, setup)
		if err != nil {
			return nil, err
		}
		if out[c.ID], err = b.Digest(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func printResult(w io.Writer, dir *rundir.Dir, r campaign.Result, total time.Duration) {
	for _, s := range record.Statuses() {
		if n := r.Status[s]; n > 0 {
			fmt.Fprintf(w, "%-12s %d trials\n", s, n)
		}
	}
	secondsTable(w, fmt.Sprintf("time %.1f s, of which", total.Seconds()),
		[]string{"images", "boot", "engine", "endpoints", "apply", "prove", "measure", "teardown"}, r.Seconds)
	fmt.Fprintf(w, "report with: driver report %s\n", dir.Path())
}
