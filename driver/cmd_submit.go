package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/batch"
	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// submitFlags are those of `driver submit`. At most one of resume to merge is set.
type submitFlags struct {
	engine, partition, out, image, claim  string
	tasks, guests, retries, task          int
	limit                                 time.Duration
	print                                 bool
	resume, status, cancel, merge, taskOf string
	options                               []string
}

// Of a task: what the driver needs in addition to its guests, in MiB, and how often it begins again.
const (
	taskOverhead   = 512
	defaultRetries = 5
)

func (a *app) submitCommand() *cobra.Command {
	var f submitFlags
	cmd := &cobra.Command{
		Use:   "submit FILE [-- OPTION...]",
		Short: "Run an experiment in virtual time as tasks of a batch system: Slurm, Kubernetes",
		Long: `Submit makes a directory that all computers of a cluster see, with the plan, a copy of
this driver and the batch script, and submits it: each task runs a share of the blocks, goes
on where it was interrupted, and is queued again when that helps. When all have ended, their
rows are merged into the very bytes of a run on one computer (docs/scale.md). Options after
-- are those of sbatch. A task needs QEMU and no privilege.`,
		Example: `  driver submit experiments/virtual.toml --engine slurm
  driver submit experiments/virtual.toml --engine slurm --tasks 3 --partition short --print
  driver submit experiments/virtual.toml --engine slurm -- --account=net --exclude=n7
  driver submit --status runs/virtual-20261130-120000
  driver submit --resume runs/virtual-20261130-120000
  driver submit experiments/virtual.toml --engine kubernetes --out /shared/virtual --image registry/qemu --print`,
		Args: func(cmd *cobra.Command, args []string) error {
			at := cmd.ArgsLenAtDash()
			if at < 0 {
				at = len(args)
			}
			f.options = args[at:]
			return f.check(args[:at])
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.submitOr(cmd.Context(), args, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.engine, "engine", "", "the batch system: "+strings.Join(batch.Engines(), ", "))
	flags.IntVar(&f.tasks, "tasks", 0, "how many tasks share the blocks (default: one a block; measure.parts makes more of them)")
	flags.StringVar(&f.partition, "partition", "", "Slurm's partition (default: Slurm's)")
	flags.IntVarP(&f.guests, "jobs", "j", 1, "guests of a task at once, a CPU each; numbers do not depend on it")
	flags.DurationVar(&f.limit, "time", 0, "most time of a task, as in 2h (default: four times the estimate, and 10 minutes)")
	flags.IntVar(&f.retries, "retries", defaultRetries, "how often a task that was interrupted or failed by the testbed's fault begins again")
	flags.StringVarP(&f.out, "out", "o", "", "directory of the job to make, which all computers see (default runs/NAME-TIME)")
	flags.BoolVar(&f.print, "print", false, "print what would be submitted; make and submit nothing")
	flags.StringVar(&f.image, "image", "", "of Kubernetes: an image that has qemu-system-x86_64")
	flags.StringVar(&f.claim, "claim", "hookbed", "of Kubernetes: the claim of the volume that has the job's directory")
	flags.StringVar(&f.status, "status", "", "show how far the job of this directory is")
	flags.StringVar(&f.resume, "resume", "", "submit again the tasks of this directory that are not complete")
	flags.StringVar(&f.cancel, "cancel", "", "end the job of this directory; what was measured stays")
	flags.StringVar(&f.merge, "merge", "", "merge the tasks of this directory, as the job does at its end")
	flags.IntVar(&f.task, "task", 0, "run this task of a job's directory here, as the batch system does: --task N DIR")
	return cmd
}

// check refuses flags that exclude each other.
func (f *submitFlags) check(args []string) error {
	asked := 0
	for _, dir := range []string{f.resume, f.status, f.cancel, f.merge} {
		if dir != "" {
			asked++
		}
	}
	if f.task > 0 {
		asked++
		f.taskOf = strings.Join(args, "")
	}
	want := 1
	if asked > 0 && f.task == 0 {
		want = 0
	}
	switch {
	case asked > 1:
		return fmt.Errorf("%w: --status, --resume, --cancel, --merge and --task exclude each other", errUsage)
	case len(args) != want && f.task > 0:
		return fmt.Errorf("%w: --task takes the directory of a job, as in `driver submit --task 1 DIR`", errUsage)
	case len(args) != want && asked > 0:
		return fmt.Errorf("%w: with the directory of a job, `driver submit` takes no experiment file; see `driver submit --help`", errUsage)
	case len(args) != want:
		return fmt.Errorf("%w: `driver submit` takes one experiment file, or the directory of a job; see `driver submit --help`", errUsage)
	case len(f.options) > 0 && (asked > 0 && f.resume == "" || asked == 0 && f.engine != batch.Slurm):
		return fmt.Errorf("%w: options after -- are those of sbatch", errUsage)
	case asked > 0:
		return nil
	case !slices.Contains(batch.Engines(), f.engine):
		return fmt.Errorf("%w: --engine is %q (allowed: %s)", errUsage, f.engine, strings.Join(batch.Engines(), ", "))
	case f.tasks < 0 || f.guests < 1 || f.retries < 0 || f.limit < 0:
		return fmt.Errorf("%w: --tasks, --jobs, --retries and --time are counts and a time: 0 or more, and 1 or more of --jobs", errUsage)
	case f.engine == batch.Kubernetes && f.image == "":
		return fmt.Errorf("%w: say with --image which image the pods have; it needs qemu-system-x86_64", errUsage)
	}
	return nil
}

func (a *app) submitOr(ctx context.Context, args []string, f submitFlags) error {
	switch {
	case f.task > 0:
		return a.runTask(ctx, f.taskOf, f.task)
	case f.merge != "":
		return a.mergeJob(ctx, f.merge)
	case f.status != "":
		return a.jobStatus(ctx, f.status)
	case f.cancel != "":
		return a.cancelJob(ctx, f.cancel)
	case f.resume != "":
		return a.resumeJob(ctx, f)
	}
	return a.submit(ctx, args[0], f)
}

// submit makes a job and submits it.
func (a *app) submit(ctx context.Context, file string, f submitFlags) error {
	p, err := loadPlan(file)
	if err != nil {
		return err
	}
	dir, job, err := a.jobOf(p, f)
	if err != nil {
		return err
	}
	scripts, err := scriptsOf(dir, job)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if f.print {
		return a.printJob(job, scripts)
	}
	a.interruptHint = "nothing was submitted"
	if err := a.imagesReady(ctx, p); err != nil {
		return err
	}
	driver, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this driver: %w", err)
	}
	if dir, err = batch.Make(dir.Path, job, p, driver, scripts); err != nil {
		if errors.Is(err, batch.ErrNotEmpty) {
			return fmt.Errorf("%w: %w; go on with `driver submit --resume %s`, or give another directory with --out", errUsage, err, dir.Path)
		}
		return rigIfFull(err)
	}
	if job.Engine == batch.Kubernetes {
		a.emit("submit", job, func(w io.Writer) {
			fmt.Fprintf(w, "%s: submit it with `kubectl apply -f %s/job.yaml`\n", dir.Path, dir.Path)
		})
		return nil
	}
	if err := a.send(ctx, dir, job, everyTask(job.Tasks)); err != nil {
		return errors.Join(refusal(err), os.RemoveAll(dir.Path)) // nothing was begun
	}
	return nil
}

// refusal is the error of a batch system, with its exit code.
func refusal(err error) error {
	if errors.Is(err, batch.ErrNoEngine) || errors.Is(err, batch.ErrRefused) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}

func everyTask(n int) (out []int) {
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

// jobOf is the job of a plan, and its directory, which is not made.
func (a *app) jobOf(p *plan.Plan, f submitFlags) (batch.Dir, batch.Job, error) {
	if p.Spec.Lab.Clock != plan.ClockVirtual {
		return batch.Dir{}, batch.Job{}, fmt.Errorf("%w: %s has clock = %q; only guests in virtual time give the same numbers on every computer", errUsage, p.Spec.Name, p.Spec.Lab.Clock)
	}
	tasks := cmp.Or(f.tasks, len(p.Blocks))
	if tasks > len(p.Blocks) {
		return batch.Dir{}, batch.Job{}, fmt.Errorf("%w: --tasks %d: the plan has %d blocks, and a task runs whole ones; parts = %d in [measure] makes enough of them",
			errUsage, tasks, len(p.Blocks), (tasks*max(1, p.Spec.Measure.Parts)+len(p.Blocks)-1)/len(p.Blocks))
	}
	block := campaign.Estimate(p, 1) / time.Duration(len(p.Blocks))
	limit := cmp.Or(f.limit, batch.Limit(block, len(p.Blocks), tasks, f.guests))
	path, err := filepath.Abs(cmp.Or(f.out, filepath.Join("runs", p.Spec.Name+"-"+time.Now().Format("20060102-150405"))))
	if err != nil {
		return batch.Dir{}, batch.Job{}, err
	}
	store := cmp.Or(a.store, os.Getenv(storeEnv))
	if store != "" {
		if store, err = filepath.Abs(store); err != nil {
			return batch.Dir{}, batch.Job{}, err
		}
	}
	return batch.Dir{Path: path}, batch.Job{
		Name: p.Spec.Name, Revision: revision, Engine: f.engine, Tasks: tasks, Blocks: len(p.Blocks), Guests: f.guests,
		MemoryMiB: lab.GuestMiB(p.Spec.Lab.Memory)*f.guests + taskOverhead, BlockSeconds: block.Seconds(), LimitSeconds: int(limit.Seconds()),
		Retries: f.retries, Store: store, Partition: f.partition, Options: f.options, Image: f.image, Claim: f.claim,
	}, nil
}

func scriptsOf(d batch.Dir, j batch.Job) (map[string]string, error) {
	if j.Engine == batch.Kubernetes {
		j.Partition, j.Options = "", nil
		return map[string]string{batch.KubernetesFile: batch.KubernetesJob(d, j)}, nil
	}
	j.Image, j.Claim = "", ""
	return batch.SlurmScripts(d, j)
}

// printJob shows a job without submitting it: its files, and of Kubernetes only what kubectl takes.
func (a *app) printJob(j batch.Job, scripts map[string]string) error {
	text, err := j.Encode()
	if err != nil {
		return err
	}
	files := maps.Clone(scripts)
	files[batch.JobFile] = text
	a.emit("submit", map[string]any{"job": j, "scripts": scripts}, func(w io.Writer) {
		if j.Engine == batch.Kubernetes {
			fmt.Fprint(w, scripts[batch.KubernetesFile])
			return
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(w, "# %s\n%s", name, files[name])
		}
	})
	return nil
}

// imagesReady makes ready what the guests of a plan boot, before any task starts.
func (a *app) imagesReady(ctx context.Context, p *plan.Plan) error {
	store, err := a.openStore("")
	if err != nil {
		return err
	}
	for _, want := range wantsOf(p) {
		if _, err := store.Ensure(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// send submits tasks of a job, and writes down what the batch system took.
func (a *app) send(ctx context.Context, dir batch.Dir, job batch.Job, tasks []int) error {
	sent, err := batch.SubmitSlurm(ctx, dir, job, tasks)
	if err != nil {
		return err
	}
	job.Submitted = append(job.Submitted, sent)
	if err := dir.Save(job); err != nil {
		return errors.Join(err, batch.Cancel(context.WithoutCancel(ctx), job))
	}
	a.emit("submit", job, func(w io.Writer) {
		fmt.Fprintf(w, "%s: job %s, %d tasks with %d blocks, at most %s each; job %s merges them into %s\nfollow it with: driver submit --status %s\n",
			dir.Path, sent.ID, len(tasks), job.Blocks, time.Duration(job.LimitSeconds)*time.Second, sent.Merge, dir.Merged(job), dir.Path)
	})
	return nil
}

// openJob opens the directory of a job.
func openJob(path string) (batch.Dir, batch.Job, error) {
	d, j, err := batch.Open(path)
	if errors.Is(err, batch.ErrNoJob) {
		err = fmt.Errorf("%w: %w", errUsage, err)
	}
	return d, j, err
}

// resumeJob submits again what is not complete.
func (a *app) resumeJob(ctx context.Context, f submitFlags) error {
	dir, job, err := openJob(f.resume)
	if err != nil {
		return err
	}
	s, err := batch.Look(ctx, dir, job)
	if err != nil {
		return err
	}
	var tasks []int
	for _, t := range s.Tasks {
		if t.State == batch.Failed || t.State == batch.Waiting && s.Note != "" {
			tasks = append(tasks, t.Task)
		}
	}
	if len(tasks) == 0 {
		return fmt.Errorf("%w: no task of %s has failed; see `driver submit --status %s`", errUsage, dir.Path, dir.Path)
	}
	if len(f.options) > 0 {
		job.Options = f.options
	}
	return refusal(a.send(ctx, dir, job, tasks))
}

func (a *app) cancelJob(ctx context.Context, path string) error {
	_, job, err := openJob(path)
	if err != nil {
		return err
	}
	if err := batch.Cancel(ctx, job); err != nil {
		return refusal(err)
	}
	a.emit("cancelled", path, func(w io.Writer) {
		fmt.Fprintf(w, "%s: cancelled; go on with `driver submit --resume %s`\n", path, path)
	})
	return nil
}

func (a *app) jobStatus(ctx context.Context, path string) error {
	dir, job, err := openJob(path)
	if err != nil {
		return err
	}
	s, err := batch.Look(ctx, dir, job)
	if err != nil {
		return err
	}
	a.emit("status", s, func(w io.Writer) { printStatus(w, s) })
	return nil
}

func printStatus(w io.Writer, s batch.Status) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TASK\tSTATE\tBLOCKS\tATTEMPTS\tHOST\tWHY")
	for _, task := range s.Tasks {
		fmt.Fprintf(t, "%d\t%s\t%d/%d\t%d\t%s\t%s\n", task.Task, task.State, task.Done, task.Blocks, len(task.Attempts), cmp.Or(task.Host, "-"), oneLine(task.Why))
	}
	_ = t.Flush() // to the terminal
	for _, task := range s.Tasks {
		if task.Log != "" {
			fmt.Fprintf(w, "\nthe end of the log of task %d:\n  %s\n", task.Task, strings.ReplaceAll(strings.TrimSpace(task.Log), "\n", "\n  "))
		}
	}
	fmt.Fprintf(w, "\n%d of %d blocks done", s.Done, s.Blocks)
	if s.Left > 0 {
		fmt.Fprintf(w, ", about %s left", (time.Duration(s.Left) * time.Second).Round(time.Second))
	}
	fmt.Fprintln(w)
	switch {
	case s.Merged != "":
		fmt.Fprintf(w, "merged into %s; report with: driver report %s\n", s.Merged, s.Merged)
	case len(s.Incomplete()) == 0:
		fmt.Fprintf(w, "complete; merge with: driver submit --merge %s\n", s.Dir)
	case slices.ContainsFunc(s.Tasks, func(t batch.Task) bool { return t.State == batch.Failed }):
		fmt.Fprintf(w, "mend what the logs say, then: driver submit --resume %s\n", s.Dir)
	}
	if s.Note != "" {
		fmt.Fprintf(w, "only the files were looked at: %s\n", oneLine(s.Note))
	}
}

// mergeJob merges the tasks that are complete, and says what is missing.
func (a *app) mergeJob(ctx context.Context, path string) error {
	dir, job, err := openJob(path)
	if err != nil {
		return err
	}
	var dirs []string
	for _, task := range everyTask(job.Tasks) {
		if _, err := os.Stat(filepath.Join(dir.Run(task), "plan.json")); err == nil {
			dirs = append(dirs, dir.Run(task))
		}
	}
	out := dir.Merged(job)
	m, err := rundir.Merge(out, dirs, false)
	switch {
	case errors.Is(err, rundir.ErrIncomplete), len(dirs) == 0:
		if s, lerr := batch.Look(ctx, dir, job); lerr == nil {
			printStatus(a.talk, s)
		}
		return fmt.Errorf("%w; nothing was merged, and nothing is lost: `driver submit --resume %s` submits the rest", err, dir.Path)
	case errors.Is(err, rundir.ErrNotEmpty):
		return fmt.Errorf("%w: %w: it was merged before", errUsage, err)
	case errors.Is(err, rundir.ErrUnlike):
		return fmt.Errorf("%w: %w", errUsage, err)
	case err != nil:
		return rigIfFull(err)
	}
	for _, w := range m.Warnings {
		a.say("warning: %s", w)
	}
	a.emit("merge", map[string]any{"dir": out, "trials": m.Trials, "rows": m.Rows, "missing": m.Missing, "warnings": m.Warnings}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d trials, %d rows; report with: driver report %s\n", out, m.Trials, m.Rows, out)
	})
	return nil
}
