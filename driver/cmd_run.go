package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"hookbed/analysis/durable"
	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/live"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

type runFlags struct {
	out, resume, only, drift, shard string
	set                             []string
	report, serveOpen               bool
	serve                           string
	jobs                            int
	goOn                            bool // --continue
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a whole experiment, with progress and the time left",
		Long: `Run brings the lab up, measures every trial of the plan in its seeded order and
appends each trial's rows to rows.csv in the run directory, synced to disk. --resume
continues a run that was interrupted or killed: every trial once, none lost.

--set gives a key of the file another value; plan.json in the run directory has what was
measured. FILE may be -, standard input; files that it names are then below this directory.

--serve shows a page on which the report grows with the trials. It is made between trials,
which it does not disturb, and has nothing that the report has not.`,
		Example: `  driver run experiments/smoke.toml
  driver run experiments/full.toml --out runs/full
  driver run --resume runs/full
  driver run experiments/full.toml --only 'arm=cilium-like,scenario=localhost'
  driver run experiments/virtual.toml --jobs 8
  driver run experiments/virtual.toml --shard 1/3
  driver run experiments/virtual.toml --shard 1/3 --out runs/share1 --continue
  driver run experiments/local.toml --set measure.trials=3 --set measure.duration=2s --report
  driver run - --out runs/mine < mine.toml
  driver run experiments/full.toml --serve 127.0.0.1:8080`,
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
	cmd.Flags().StringVar(&f.resume, "resume", "", "continue the run of this directory")
	cmd.Flags().StringVar(&f.only, "only", "", "run only the cells that match, as in 'arm=docker|xdp,scenario!=multi-host'")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "in virtual time, guests at once (default: one a CPU, as memory permits); numbers do not depend on it")
	cmd.Flags().StringVar(&f.shard, "shard", "", "run only share `i/n` of the blocks, as in 2/3; \"driver merge\" joins them")
	cmd.Flags().BoolVar(&f.report, "report", false, "write the report into the run directory at the end")
	cmd.Flags().StringVar(&f.serve, "serve", "", "show the report of the trials so far on a page at this address, as in 127.0.0.1:8080; port 0 takes a free one")
	cmd.Flags().BoolVar(&f.serveOpen, "serve-open", false, "let --serve listen where other computers reach it; everyone there sees the report")
	setFlag(cmd, &f.set)
	cmd.Flags().BoolVar(&f.goOn, "continue", false, "begin the run, or go on with it where --out has it already; wait while another driver is at it")
	driftFlag(cmd, &f.drift)
	return cmd
}

// continueWait is how often a run is looked at that another driver is at.
const continueWait = 2 * time.Second

// openOrContinue is openRun for what the flags say about a run that is there already.
func (a *app) openOrContinue(ctx context.Context, file string, f *runFlags) (job, error) {
	if !f.goOn {
		return a.openRun(ctx, file, *f)
	}
	if f.out == "" || f.resume != "" {
		return job{}, fmt.Errorf("%w: --continue is about the run of --out, and needs it", errUsage)
	}
	for waiting := false; ; waiting = true {
		try := *f
		if _, err := os.Stat(filepath.Join(f.out, "plan.json")); err == nil {
			try.resume, try.out = f.out, ""
		}
		j, err := a.openRun(ctx, file, try)
		if !errors.Is(err, rundir.ErrInUse) {
			*f = try
			return j, err
		}
		if !waiting {
			a.say("%v", err)
		}
		select {
		case <-ctx.Done():
			return job{}, ctx.Err()
		case <-time.After(continueWait):
		}
	}
}

func (a *app) run(ctx context.Context, file string, f runFlags) error {
	a.interruptHint = "nothing was begun"
	j, err := a.openOrContinue(ctx, file, &f)
	if err != nil {
		return rigIfFull(err)
	}
	defer j.dir.Close()
	trials := j.pending()
	resume := fmt.Sprintf("go on with `driver run --resume %s`", j.dir.Path())
	a.interruptHint = nothingRuns + "; " + resume
	a.say("run directory %s: %d of %d trials to run, about %s", j.dir.Path(), len(trials), len(j.plan.Trials), f.remaining(j.plan, len(trials)).Round(time.Second))
	start := time.Now()
	result, err := a.measure(ctx, j, trials, f)
	if err != nil && f.resume == "" && !j.dir.Began() && ctx.Err() == nil && !errors.Is(err, rundir.ErrStorage) {
		// Nothing was measured and nothing can be resumed.
		if durable.NoRoom(err) {
			err = fmt.Errorf("%w; %s", err, whenMended(err, "run it again: nothing was begun"))
		}
		return errors.Join(err, j.dir.Discard())
	}
	o := outcomeOf(j, result)
	if err == nil || errors.Is(err, campaign.ErrRig) && !a.json {
		a.emit("run", o.document(j.dir, result, time.Since(start)), func(w io.Writer) { o.print(w, j.dir, result, time.Since(start)) })
	}
	if err == nil {
		return errors.Join(o.err(j.dir), a.reportOf(j, o, f))
	}
	if errors.Is(err, campaign.ErrRig) && ctx.Err() == nil {
		return fmt.Errorf("%w; %s", err, whenMended(err, resume))
	}
	return err
}

// rigIfFull makes an error before a run begins one of the testbed where a disk is full: the same run
// begins when there is room.
func rigIfFull(err error) error {
	if durable.NoRoom(err) && !errors.Is(err, campaign.ErrRig) {
		return fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	return err
}

// reportOf writes the report of a run that came to its end, if --report says so and there is
// something to report.
func (a *app) reportOf(j job, o outcome, f runFlags) error {
	if !f.report || o.counts[record.StatusOK] == 0 {
		return nil
	}
	return a.report([]string{j.dir.Path()}, j.dir.Path())
}

// whenMended says what to do about a fault that stopped a run, and how to continue then.
func whenMended(err error, resume string) string {
	switch {
	case durable.NoRoom(err):
		return "make room, then " + resume
	case errors.Is(err, rundir.ErrStorage):
		return "make it writable, then " + resume
	}
	return resume
}

// remaining is the estimated time of the trials that are left to run.
func (f runFlags) remaining(p *plan.Plan, trials int) time.Duration {
	jobs := f.jobs
	if jobs == 0 {
		jobs = lab.Jobs(p.Spec.Lab.Memory)
	}
	return time.Duration(float64(campaign.Estimate(p, jobs)) * float64(trials) / float64(len(p.Trials)))
}

// job is what one call of `driver run` has to do.
type job struct {
	dir      *rundir.Dir
	plan     *plan.Plan
	selected []plan.Trial // of the shard, and that --only does not leave out
	lab      lab.Config   // of a job that has trials to run
}

// pending are the selected trials that are still to run.
func (j job) pending() []plan.Trial {
	wanted := map[int]bool{}
	for _, t := range j.selected {
		wanted[t.Order] = true
	}
	return slices.DeleteFunc(j.dir.Pending(), func(t plan.Trial) bool { return !wanted[t.Order] })
}

// openRun makes or opens the run directory. It makes one only after every check that can refuse the
// run.
func (a *app) openRun(ctx context.Context, file string, f runFlags) (job, error) {
	if err := checkFlags(f); err != nil {
		return job{}, err
	}
	if f.resume != "" {
		if file == "" && len(f.set) > 0 {
			return job{}, fmt.Errorf("%w: --set is about a file, and a run that continues has its plan", errUsage)
		}
		return a.reopenRun(ctx, file, f)
	}
	set, err := settings(f.set)
	if err != nil {
		return job{}, err
	}
	p, err := loadPlan(file, set...)
	if err != nil {
		return job{}, err
	}
	shard, err := shardOf(p, f)
	if err != nil {
		return job{}, err
	}
	j := job{plan: p}
	if j.selected, err = selected(p, shard, f); err != nil {
		return job{}, err
	}
	if j.lab, err = a.labConfig(ctx, p, f.drift); err != nil {
		return job{}, err
	}
	out := f.out
	if out == "" {
		out = filepath.Join("runs", p.Spec.Name+"-"+time.Now().Format("20060102-150405"))
	}
	j.dir, err = rundir.CreateShard(out, p, shard)
	switch {
	case errors.Is(err, rundir.ErrStorage):
		err = fmt.Errorf("%w; %s", err, whenMended(err, "run it again: nothing was begun"))
	case errors.Is(err, rundir.ErrNotEmpty):
		err = fmt.Errorf("%w; go on with `driver run --resume %s`, or give another directory with --out", err, out)
	}
	return j, err
}

// reopenRun opens the directory of a run that continues.
func (a *app) reopenRun(ctx context.Context, file string, f runFlags) (job, error) {
	dir, err := rundir.Open(f.resume)
	if errors.Is(err, rundir.ErrStorage) {
		err = fmt.Errorf("%w; %s", err, whenMended(err, fmt.Sprintf("go on with `driver run --resume %s`", f.resume)))
	}
	if err != nil {
		return job{}, err
	}
	j := job{dir: dir, plan: dir.Plan()}
	if file != "" {
		var set []plan.Setting
		if set, err = settings(f.set); err == nil {
			j.plan, err = loadPlan(file, set...)
		}
		if err == nil {
			err = dir.Check(j.plan)
		}
	}
	if err == nil && f.shard != "" { // of --continue
		if shard, serr := shardOf(j.plan, f); serr != nil || shard != dir.Shard() {
			err = errors.Join(serr, fmt.Errorf("%w: %s has %s, and --shard is %s", errUsage, f.resume, dir.Shard(), f.shard))
		}
	}
	if err == nil {
		j.selected, err = selected(j.plan, dir.Shard(), f)
	}
	if err == nil && j.plan.Spec.Lab.Capabilities().Here() { // there is no file to be read
		err = j.plan.Spec.Unfit(func(string) plan.Computer { return lab.Here() })
	}
	switch {
	case err != nil:
	case len(j.pending()) > 0:
		j.lab, err = a.labConfig(ctx, j.plan, f.drift)
	default: // the driver may have been killed after its last trial
		err = a.clearLeft(ctx)
	}
	if err != nil {
		return job{}, errors.Join(err, dir.Close())
	}
	return j, nil
}

// checkFlags refuses flags that exclude each other in every experiment.
func checkFlags(f runFlags) error {
	switch {
	case f.serve == "" && f.serveOpen:
		return fmt.Errorf("%w: --serve-open is about --serve, which says where", errUsage)
	case f.serve != "" && live.Check(f.serve, f.serveOpen) != nil:
		return fmt.Errorf("%w: --serve: %w", errUsage, live.Check(f.serve, f.serveOpen))
	case f.resume != "" && f.shard != "" && !f.goOn:
		return fmt.Errorf("%w: --shard cannot change on --resume; the run directory knows its share", errUsage)
	case f.resume != "" && f.out != "":
		return fmt.Errorf("%w: --out is for a new run; --resume goes on in %s", errUsage, f.resume)
	case !slices.Contains([]string{"", "allow", "forbid"}, f.drift):
		return fmt.Errorf("%w: --drift is %q (allowed: allow, forbid)", errUsage, f.drift)
	}
	return nil
}

func shardOf(p *plan.Plan, f runFlags) (rundir.Shard, error) {
	if f.shard == "" {
		return rundir.Shard{}, nil
	}
	shard, err := rundir.ParseShard(f.shard)
	if err == nil {
		err = shard.Check(p)
	}
	if err != nil {
		return shard, fmt.Errorf("%w: --shard: %w", errUsage, err)
	}
	return shard, nil
}

// selected are the trials of the plan that the flags select.
func selected(p *plan.Plan, shard rundir.Shard, f runFlags) ([]plan.Trial, error) {
	if err := checkClockFlags(p, f); err != nil {
		return nil, err
	}
	match, err := p.Filter(f.only)
	if err != nil {
		return nil, fmt.Errorf("%w: --only: %w", errUsage, err)
	}
	var out []plan.Trial
	for _, t := range p.Trials {
		if c, _ := p.CellByID(t.Cell); shard.Has(t.Block) && match(c) {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: --only: %q selects no trial of %s", errUsage, f.only, shard)
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

func (a *app) measure(ctx context.Context, j job, trials []plan.Trial, f runFlags) (campaign.Result, error) {
	if len(trials) == 0 {
		return campaign.Result{}, nil
	}
	p, cfg := j.plan, j.lab
	progress, stop := a.newProgress(len(trials), f.remaining(p, len(trials)))
	defer stop()
	progress, closePage, err := a.withPage(progress, j.dir.Path(), len(trials), f.remaining(p, len(trials)), f)
	if err != nil {
		return campaign.Result{}, err
	}
	defer closePage()
	run := campaign.Config{Plan: p, Dir: j.dir, Trials: trials, Progress: progress, Log: a.logger()}
	if p.Spec.Lab.Clock == plan.ClockVirtual {
		return a.measureSealed(ctx, run, cfg, f.jobs)
	}
	run.Up = func(ctx context.Context, block int) (*lab.Lab, error) {
		cfg := cfg
		cfg.Lab = p.LabOf(block)
		return upFit(ctx, cfg, p.Spec)
	}
	run.Environment = func(l *lab.Lab) map[string]any {
		env := campaign.Environment(p, revision, l.Environment().Entries())
		env["lab_seconds"] = l.Timings
		return env
	}
	return campaign.Run(ctx, run)
}

// upFit brings a lab up and checks that its machines have what the trials require. Where kernels are
// compared, the rows of a kernel's cells say what it lacks.
func upFit(ctx context.Context, cfg lab.Config, s plan.Spec) (*lab.Lab, error) {
	l, err := lab.Up(ctx, cfg)
	if err != nil || len(s.Kernels) > 0 {
		return l, err
	}
	if err := l.Unfit(s); err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return l, nil
}

// measureSealed runs blocks in sealed guests, several at once.
func (a *app) measureSealed(ctx context.Context, run campaign.Config, cfg lab.Config, jobs int) (_ campaign.Result, err error) {
	sealer, err := lab.OpenSealer(ctx, cfg)
	if err != nil {
		return campaign.Result{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	defer func() {
		ended := sealer.Close(ctx)
		if ended != nil {
			run.Log.Warn("teardown", "err", ended)
		}
		if errors.Is(ended, lab.ErrStillRuns) {
			err = errors.Join(err, ended)
		}
	}()
	facts, err := sealer.Environment(ctx)
	if err != nil {
		return campaign.Result{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	if jobs == 0 {
		jobs = lab.Jobs(cfg.Lab.Memory)
	}
	env := campaign.Environment(run.Plan, revision, facts.Entries())
	env["jobs"] = jobs
	return campaign.RunSealed(ctx, campaign.SealedConfig{Config: run, Jobs: jobs, Boot: sealer.Run, Facts: env})
}
