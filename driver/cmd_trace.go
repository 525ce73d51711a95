package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
	"hookbed/driver/tracing"
	"hookbed/driver/watch"
)

type traceFlags struct {
	arm, against, only, window string
	out, resume, drift         string
	jobs                       int
	plan, ftrace, drop         bool
}

func (a *app) traceCommand() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace FILE",
		Short: "Record every instruction of a packet's path, function by function, in virtual time",
		Long: `Trace boots each cell of an experiment in virtual time once, and has a plugin of the
emulator record what its measured part executes, without changing an instruction of it. The
rows of the run directory are those of an ordinary run; its directory trace has for each cell
the functions, the stacks, a flame graph and the path of one transaction, and compares every
arm with the one that enforces nothing, or with --against. A trace whose account of the
guest's time is not exact to the instruction is refused.

With --drop each workload is followed by attempts that the policies refuse: where their
packets end, after how many instructions and with which reason. It chooses the cells that
refuse something, one for all workloads of a setup, at 100 policies unless --only says
otherwise.

With --ftrace, on the wall clock, the kernel's own tracer records the order in which
functions are entered for one transaction of each cell, and with which reason packets
are dropped while the enforcement is proven. An order has no costs.`,
		Example: `  driver trace experiments/trace.toml
  driver trace experiments/trace.toml --only 'scenario=localhost,workload=TCP_RR' --out runs/paths
  driver trace experiments/answer.toml --arm cilium-like --against iptables-as-study
  driver trace experiments/trace.toml --arm xdp --window 20
  driver trace experiments/trace.toml --drop --only scenario=localhost
  driver trace --resume runs/paths
  driver trace experiments/smoke.toml --ftrace --only 'arm=docker,workload=TCP_RR'
  driver trace experiments/smoke.toml --ftrace --drop`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && f.resume == "" || len(args) == 0 && f.resume != "" {
				return nil
			}
			return fmt.Errorf("%w: `driver trace` takes one experiment file, or --resume DIR; see `driver trace --help`", errUsage)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file := ""
			if len(args) > 0 {
				file = args[0]
			}
			if f.ftrace {
				return a.traceOrder(cmd.Context(), file, f)
			}
			return a.trace(cmd.Context(), file, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.arm, "arm", "", "trace only this arm, and the one that it is compared with")
	fl.StringVar(&f.against, "against", "", "compare with this arm (default: the first that enforces nothing)")
	fl.StringVar(&f.only, "only", "", "trace only the cells that match, as in 'scenario=localhost,workload=TCP_RR|TCP_CRR'")
	fl.StringVar(&f.window, "window", wholeWindow, "how much of a trial counts: whole, or its last `N` transactions, connections or MiB; with --ftrace how many the client makes, whole is 20")
	fl.StringVarP(&f.out, "out", "o", "", "run directory to make (default runs/trace-NAME-TIME)")
	fl.StringVar(&f.resume, "resume", "", "make the rows and traces that this directory lacks")
	fl.IntVarP(&f.jobs, "jobs", "j", 0, "guests at once (default: one a CPU, as memory permits); traces do not depend on it")
	fl.BoolVar(&f.ftrace, "ftrace", false, "on the wall clock: record the order of calls by the kernel's function tracer")
	fl.BoolVar(&f.drop, "drop", false, "where a refused packet ends, and why; with --ftrace only that")
	fl.BoolVar(&f.plan, "plan", false, "show the cells and the estimated time, and change nothing")
	driftFlag(cmd, &f.drift)
	return cmd
}

// refusedAttempts is how many packets --drop has refused: enough to see which path most take.
const refusedAttempts = 100

// wholeWindow is --window for all of a trial.
const wholeWindow = "whole"

// choice is what the flags choose of an experiment.
func (f traceFlags) choice() (plan.Choice, error) {
	c := plan.Choice{Only: f.only, Against: f.against}
	if f.drop {
		c.Refusals = refusedAttempts
	}
	if f.window != wholeWindow {
		n, err := strconv.Atoi(f.window)
		if err != nil || n < 1 {
			return c, fmt.Errorf("%w: --window is %q, want %s or a number of transactions, 1 or more", errUsage, f.window, wholeWindow)
		}
		c.Window = n
	}
	switch {
	case f.arm == "" && f.against != "":
	case f.arm != "" && f.arm == f.against:
		return c, fmt.Errorf("%w: --arm and --against are both %s; compare two different arms", errUsage, f.arm)
	case f.arm != "":
		c.Arms = []string{f.arm}
	}
	return c, nil
}

// traceOrder records the order of calls on the wall clock.
func (a *app) traceOrder(ctx context.Context, file string, f traceFlags) error {
	for flag, given := range map[string]bool{"arm": f.arm != "", "against": f.against != "", "resume": f.resume != "", "jobs": f.jobs != 0, "plan": f.plan} {
		if given {
			return fmt.Errorf("%w: --%s is for traces in virtual time, not for --ftrace", errUsage, flag)
		}
	}
	n, err := ftraceTransactions(f.window)
	if err != nil {
		return err
	}
	return a.traceFtrace(ctx, file, ftraceFlags{out: f.out, only: f.only, drift: f.drift, transactions: n, drop: f.drop})
}

// check refuses flags that exclude each other.
func (f traceFlags) check() error {
	for _, flag := range []struct{ name, value string }{{"arm", f.arm}, {"against", f.against}, {"only", f.only}, {"out", f.out}} {
		if f.resume != "" && flag.value != "" {
			return fmt.Errorf("%w: --%s is for new traces; --resume goes on with what %s was begun with", errUsage, flag.name, f.resume)
		}
	}
	if f.resume != "" && f.drop {
		return fmt.Errorf("%w: --drop is for new traces; --resume goes on with what %s was begun with", errUsage, f.resume)
	}
	if f.resume != "" && f.window != wholeWindow {
		return fmt.Errorf("%w: --window is for new traces; --resume goes on with what %s was begun with", errUsage, f.resume)
	}
	switch {
	case f.jobs < 0:
		return fmt.Errorf("%w: --jobs is %d, want 1 or more", errUsage, f.jobs)
	case f.plan && f.resume != "":
		return fmt.Errorf("%w: --plan is for new traces; the plan of %s is in its plan.json", errUsage, f.resume)
	}
	return checkFlags(runFlags{drift: f.drift})
}

func (a *app) trace(ctx context.Context, file string, f traceFlags) error {
	a.interruptHint = "nothing was begun"
	if f.plan {
		return a.planTrace(file, f)
	}
	j, err := a.openTrace(ctx, file, f)
	if err != nil {
		return err
	}
	defer j.dir.Close()
	missing, err := tracing.Missing(j.dir)
	if err != nil {
		return err
	}
	resume := fmt.Sprintf("go on with `driver trace --resume %s`", j.dir.Path())
	a.interruptHint = "nothing is left running; " + resume
	left := campaign.Estimate(j.plan, f.parallel(j.plan)).Seconds() * float64(len(missing)) / float64(len(j.plan.Cells))
	a.say("run directory %s: %d of %d cells to trace, about %s", j.dir.Path(), len(missing), len(j.plan.Cells), time.Duration(left*1e9).Round(time.Second))
	start := time.Now()
	var result tracing.Result
	if len(missing) > 0 || len(j.pending()) > 0 {
		result, err = a.measureTraced(ctx, j, f, len(missing))
	}
	if err != nil && f.resume == "" && !j.dir.Began() && ctx.Err() == nil && !errors.Is(err, rundir.ErrStorage) {
		return errors.Join(err, j.dir.Discard())
	}
	if errors.Is(err, campaign.ErrRig) && ctx.Err() == nil {
		return fmt.Errorf("%w; %s", err, whenMended(err, resume))
	}
	if err != nil {
		return err
	}
	return a.concludeTrace(j, result, time.Since(start))
}

// planTrace shows what would be traced.
func (a *app) planTrace(file string, f traceFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	p, err := a.tracedPlan(file, f)
	if err == nil {
		a.showPlan(p, f.parallel(p))
	}
	return err
}

// parallel is how many guests are traced at once.
func (f traceFlags) parallel(p *plan.Plan) int {
	if f.jobs > 0 {
		return f.jobs
	}
	return lab.Jobs(p.Spec.Lab.Memory + tracing.Overhead)
}

// openTrace makes or opens the run directory. It makes one only after every check that can refuse
// the traces.
func (a *app) openTrace(ctx context.Context, file string, f traceFlags) (job, error) {
	if err := f.check(); err != nil {
		return job{}, err
	}
	if f.resume != "" {
		return a.reopenTrace(ctx, f)
	}
	p, err := a.tracedPlan(file, f)
	if err != nil {
		return job{}, err
	}
	j := job{plan: p, selected: p.Trials}
	if j.lab, err = a.labConfig(ctx, p, f.drift); err != nil {
		return job{}, err
	}
	out := f.out
	if out == "" {
		out = filepath.Join("runs", "trace-"+p.Spec.Name+"-"+time.Now().Format("20060102-150405"))
	}
	j.dir, err = rundir.Create(out, p)
	if errors.Is(err, rundir.ErrNotEmpty) {
		err = fmt.Errorf("%w; go on with `driver trace --resume %s`, or give another directory with --out", err, out)
	}
	return j, err
}

// tracedPlan is the plan of the traces that the flags choose of an experiment. It says what is left out.
func (a *app) tracedPlan(file string, f traceFlags) (*plan.Plan, error) {
	c, err := f.choice()
	if err != nil {
		return nil, err
	}
	whole, err := loadPlan(file)
	if err != nil {
		return nil, err
	}
	if whole.Spec.Lab.Clock != plan.ClockVirtual {
		return nil, fmt.Errorf("%w: %s is measured on the wall clock, and traces count instructions: write clock = %q in its [lab], or record the order of calls there with --ftrace", errUsage, file, plan.ClockVirtual)
	}
	p, err := plan.Trace(whole, c)
	if err == nil {
		err = tracing.Supported(p)
	}
	var without []plan.Cell
	if err == nil {
		without, err = whole.Unrefusing(c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUsage, file, err)
	}
	if len(without) > 0 {
		a.say("left out, because nothing is refused there: %s", strings.Join(setupsOf(without), ", "))
	}
	return p, nil
}

// setupsOf names the arms and numbers of policies of cells, each once.
func setupsOf(cells []plan.Cell) (out []string) {
	for _, c := range cells {
		if name := fmt.Sprintf("%s at N = %d", c.Get(plan.FactorArm), c.Int(plan.FactorPolicies)); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// reopenTrace opens the directory of traces that are continued.
func (a *app) reopenTrace(ctx context.Context, f traceFlags) (job, error) {
	dir, err := rundir.Open(f.resume)
	if err != nil {
		return job{}, err
	}
	j := job{dir: dir, plan: dir.Plan(), selected: dir.Plan().Trials}
	if j.plan.Spec.Traced == nil {
		err = fmt.Errorf("%w: %s is an ordinary run, whose cells share their boots; trace its experiment into a directory of its own", errUsage, f.resume)
	} else {
		j.lab, err = a.labConfig(ctx, j.plan, f.drift)
	}
	if err != nil {
		return job{}, errors.Join(err, dir.Close())
	}
	return j, nil
}

// measureTraced runs what the run directory lacks in sealed guests that are observed.
func (a *app) measureTraced(ctx context.Context, j job, f traceFlags, missing int) (tracing.Result, error) {
	fault := func(err error) (tracing.Result, error) {
		return tracing.Result{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	sealer, err := lab.OpenSealer(ctx, j.lab)
	if err != nil {
		return fault(err)
	}
	progress, stop := a.newProgress(missing, runFlags{jobs: f.parallel(j.plan)}.remaining(j.plan, missing))
	defer stop()
	run := campaign.Config{Plan: j.plan, Dir: j.dir, Trials: j.pending(), Progress: progress, Log: a.logger()}
	defer func() {
		if err := sealer.Close(ctx); err != nil {
			run.Log.Warn("teardown", "err", err)
		}
	}()
	facts, err := sealer.Environment(ctx)
	if err != nil {
		return fault(err)
	}
	plugin, err := watch.Build(ctx, j.lab.Store.Dir(), facts.Hypervisor.QEMU)
	if err != nil {
		return tracing.Result{}, err
	}
	programs, err := sealer.Programs()
	if err != nil {
		return fault(err)
	}
	jobs := f.parallel(j.plan)
	env := campaign.Environment(run.Plan, revision, facts.Entries())
	env["jobs"], env["trace_plugin_sha256"] = jobs, plugin.SHA256
	return tracing.Run(ctx, tracing.Config{
		SealedConfig: campaign.SealedConfig{Config: run, Jobs: jobs, Facts: env},
		Guest:        sealer.Run, Plugin: plugin.Path, Observe: tracing.Reducers(j.plan, programs, lab.HelperPath), ObserveRefusals: tracing.RefusalReducers(programs, lab.HelperPath),
	})
}

// concludeTrace compares the traces, and says what they are.
func (a *app) concludeTrace(j job, result tracing.Result, total time.Duration) error {
	o := outcomeOf(j, result.Result)
	if err := tracing.Compare(j.dir); err != nil {
		return err
	}
	lines, err := tracing.Summarise(j.dir)
	if err != nil {
		return err
	}
	document := o.document(j.dir, result.Result, total)
	document["traces"], document["refused"] = lines, result.Document()
	a.emit("trace", document, func(w io.Writer) {
		tracing.Print(w, lines)
		tracing.PrintDrops(w, lines)
		o.printTrouble(w)
		result.PrintRefused(w)
		fmt.Fprintf(w, "%d traces and their differences are in %s\n", len(lines), filepath.Join(j.dir.Path(), "trace"))
		if len(lines) > 0 {
			fmt.Fprintf(w, "report with: driver report %s\n", j.dir.Path())
		}
	})
	if err := o.err(j.dir); err != nil {
		return err
	}
	if n := len(result.Refused); n > 0 {
		return fmt.Errorf("%w: %d of %d have no trace", errFailedCells, n, len(j.plan.Cells))
	}
	return nil
}
