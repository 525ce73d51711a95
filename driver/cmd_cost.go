package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/cost"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

type costFlags struct {
	programs, external []string
	policies           []int
	rounds, cpu        int
	seed               uint64
	seconds            float64
	out                string
	clock, kernel      string
	jobs               int
}

func (a *app) costCommand() *cobra.Command {
	var f costFlags
	cmd := &cobra.Command{
		Use:   "cost [FILE]",
		Short: "Measure the cost of a packet: of BPF programs alone, or of the arms of an experiment",
		Long: `Without a file, cost times every tc and XDP program by BPF_PROG_TEST_RUN, with
each number of policies and with a packet that meets the first, the middle, the
last or no policy, and with them the loaded programs of other projects. It proves every
verdict first, and measures in rounds of shuffled order.

With --clock virtual it counts the instructions of the same runs instead, in sealed
guests whose clock counts them: exact, and the same on every computer. With
--clock both it does both.

With an experiment, cost measures the packet rate of each of its arms on this
computer, netfilter included: how many packets a second a core drops, and how many it
accepts. The arm is applied and proven as in a trial; a generator sends from the
client's side.

It needs root. It works in network namespaces that it makes, which the kernel removes
when it ends.`,
		Example: `  driver cost
  driver cost --programs tc-hash,xdp-hash --policies 1,10000 --rounds 100
  driver cost --peers none --out runs/cost
  driver cost --clock virtual --programs tc-linear,tc-hash
  driver cost experiments/arms.toml --rounds 7 --out runs/rate`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%w: `driver cost` takes at most one experiment file, got %d; see `driver cost --help`", errUsage, len(args))
			}
			return f.check(cmd, len(args) == 1)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "nothing is left running"
			if len(args) == 1 {
				return a.rates(cmd.Context(), args[0], f)
			}
			if f.clock == plan.ClockVirtual {
				return a.costVirtual(cmd.Context(), f)
			}
			return a.cost(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.programs, "programs", []string{"all"}, "programs to time")
	fl.IntSliceVar(&f.policies, "policies", []int{1, 10, 100, 1000, 10000}, "numbers of policies N")
	fl.StringSliceVar(&f.external, "peers", cost.ExternalProjects(), "other projects whose programs to time too, or none")
	fl.IntVar(&f.rounds, "rounds", 0, "rounds of interleaved measurements (default 100; with an experiment 7)")
	fl.IntVar(&f.cpu, "cpu", runtime.NumCPU()-1, "CPU to measure on")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of the order within rounds")
	fl.Float64Var(&f.seconds, "seconds", 0.2, "with an experiment, how long to send for each number")
	fl.StringVar(&f.clock, "clock", plan.ClockWall, "wall: nanoseconds on this computer; virtual: instructions, the same on every computer; both")
	fl.StringVar(&f.kernel, "kernel", images.DefaultKernel, "with --clock virtual, the kernel of the guests")
	fl.IntVar(&f.jobs, "jobs", 0, "with --clock virtual, how many guests run at once (default: one a CPU)")
	fl.StringVarP(&f.out, "out", "o", "", "directory to make (default runs/cost-TIME, runs/rate-TIME)")
	return cmd
}

// Rounds where --rounds is not given.
const (
	defaultCostRounds = 100
	defaultRateRounds = 7
)

// check finds what is wrong with the flags, and fills in defaults.
func (f *costFlags) check(cmd *cobra.Command, rates bool) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w; see `driver cost --help`", errUsage, fmt.Errorf(format, args...))
	}
	for _, name := range []string{"programs", "policies", "peers"} {
		if rates && cmd.Flags().Changed(name) {
			return wrong("--%s is not for an experiment, which names its arms itself", name)
		}
	}
	if !rates && cmd.Flags().Changed("seconds") {
		return wrong("--seconds is for an experiment")
	}
	if err := f.checkClock(cmd, rates); err != nil {
		return wrong("%w", err)
	}
	if !cmd.Flags().Changed("rounds") {
		f.rounds = defaultCostRounds
		if rates {
			f.rounds = defaultRateRounds
		}
	}
	if _, err := cost.Select(f.programs); err != nil {
		return wrong("--programs: %w", err)
	}
	for _, p := range f.external {
		if p != "none" && !slices.Contains(cost.ExternalProjects(), p) {
			return wrong("--peers: no project %q, want some of %s, or none", p, strings.Join(cost.ExternalProjects(), ", "))
		}
	}
	for _, n := range f.policies {
		if n < 1 || n > cost.MaxPolicies {
			return wrong("--policies: %d is not between 1 and %d", n, cost.MaxPolicies)
		}
	}
	slices.Sort(f.policies)
	f.policies = slices.Compact(f.policies)
	programs := cost.XDPPrograms(f.subjects(), f.policies)
	switch {
	case programs > cost.MaxXDP && f.clock != plan.ClockVirtual:
		return wrong("%d XDP programs at once are more than the %d that the kernel treats alike: give fewer --programs or --policies", programs, cost.MaxXDP)
	case f.rounds < 1:
		return wrong("--rounds is %d, want 1 or more", f.rounds)
	case f.cpu < 0 || f.cpu >= runtime.NumCPU():
		return wrong("--cpu is %d, and this computer has CPUs 0 to %d", f.cpu, runtime.NumCPU()-1)
	case !(f.seconds > 0 && f.seconds <= 10):
		return wrong("--seconds is %g, want more than 0 and at most 10", f.seconds)
	}
	return nil
}

// clockBoth is measuring on the wall clock and then counting in virtual time.
const clockBoth = "both"

// checkClock finds flags that do not go with the clock.
func (f *costFlags) checkClock(cmd *cobra.Command, rates bool) error {
	clocks := []string{plan.ClockWall, plan.ClockVirtual, clockBoth}
	set := cmd.Flags().Changed
	switch {
	case !slices.Contains(clocks, f.clock):
		return fmt.Errorf("--clock: no clock %q, want %s%s", f.clock, strings.Join(clocks, ", "), plan.DidYouMean(f.clock, clocks))
	case rates && set("clock"):
		return errors.New("--clock is not for an experiment, whose packet rates are of this computer")
	case f.clock == plan.ClockWall && (set("kernel") || set("jobs")):
		return errors.New("--kernel and --jobs are for sealed guests: give --clock virtual")
	case f.clock == plan.ClockVirtual && (set("rounds") || set("cpu")):
		return errors.New("--rounds and --cpu are for the wall clock; in virtual time a count is exact")
	case !slices.Contains(images.Kernels(), f.kernel):
		return fmt.Errorf("--kernel: no kernel %q, want some of %s%s", f.kernel, strings.Join(images.Kernels(), ", "), plan.DidYouMean(f.kernel, images.Kernels()))
	case f.jobs < 0:
		return fmt.Errorf("--jobs is %d, want 1 or more", f.jobs)
	}
	return nil
}

// subjects are the programs that the flags leave.
func (f costFlags) subjects() []cost.Subject {
	all, _ := cost.Select(f.programs) // checked
	return slices.DeleteFunc(all, func(s cost.Subject) bool { return s.External != "" && !slices.Contains(f.external, s.External) })
}

// output makes the directory of results.
func (f costFlags) output(kind string) (*cost.Output, error) {
	return cost.NewOutput(f.directory(kind))
}

func (f costFlags) directory(kind string) string {
	if f.out != "" {
		return f.out
	}
	return filepath.Join("runs", kind+"-"+time.Now().Format("20060102-150405"))
}

func (a *app) cost(ctx context.Context, f costFlags) error {
	out, err := f.output("cost")
	if err != nil {
		return err
	}
	defer out.Close()
	external, digest, err := a.externalPrograms(ctx, f)
	if err != nil {
		return err
	}
	l, err := a.costLab(ctx, &plan.Plan{}, external.NoExternal == "")
	if err != nil {
		return err
	}
	defer func() { _ = l.Close(ctx) }() // the namespaces end with the helper
	env := a.costEnvironment(l, f)
	env["peers_sha256"] = digest
	if err := out.Environment(env); err != nil {
		return err
	}
	if err := l.Begin(ctx, datapath.Setup{}); err != nil {
		return rigFault(ctx, err)
	}
	cells, err := cost.Measure(ctx, cost.Config{
		Lab: l, Subjects: f.subjects(), Policies: f.policies, Rounds: f.rounds,
		Seed: f.seed, CPU: f.cpu, External: external, Progress: a.costProgress(), Sample: out.Sample,
	})
	if err = errors.Join(err, l.End(ctx, datapath.Setup{})); err != nil {
		return rigFault(ctx, err)
	}
	machine := cost.ThisMachine()
	if err := out.Cells(cells, f.rounds, machine); err != nil {
		return err
	}
	for _, c := range cells {
		if a.json {
			a.line(map[string]any{"type": "cell", "cell": c.Summary()})
		}
	}
	a.emit("cost", map[string]any{"dir": out.Dir(), "machine": machine, "ratios": cost.Ratios(cells)}, func(w io.Writer) { printTables(w, cost.Tables(cells, f.rounds, machine), out.Dir()) })
	err = failedCells(cells, out.Dir())
	if f.clock != clockBoth {
		return err
	}
	return errors.Join(err, a.costBoth(ctx, f, out, cells, env, external))
}

// externalPrograms makes the image of other projects' programs ready, if some are wanted
// and it can be built.
func (a *app) externalPrograms(ctx context.Context, f costFlags) (env cost.Environment, digest string, err error) {
	if !slices.ContainsFunc(f.subjects(), func(s cost.Subject) bool { return s.External != "" }) {
		return cost.Environment{NoExternal: "nobody asked for them"}, "", nil
	}
	store, err := a.openStore("")
	if err != nil {
		return env, "", err
	}
	set, err := store.Ensure(ctx, images.Want{External: true})
	if ctx.Err() != nil {
		return env, "", ctx.Err()
	}
	if err != nil {
		return cost.Environment{NoExternal: fmt.Sprintf("the image of peers cannot be built: %v", err)}, "", nil
	}
	return env, set.ExternalDigest, nil
}

func printTables(w io.Writer, tables []cost.Table, dir string) {
	for _, t := range tables {
		t.Text(w)
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "written to %s\n", dir)
}

func failedCells(cells []*cost.Cell, dir string) error {
	n := 0
	for _, c := range cells {
		if c.Status == record.StatusFailed || c.Status == record.StatusVoid {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%w: %d of %d; reasons are in %s", errFailedCells, n, len(cells), filepath.Join(dir, "cost.csv"))
	}
	return nil
}

// rigFault marks an error as the testbed's, unless the run was interrupted.
func rigFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", campaign.ErrRig, err)
}

// costLab brings up the local provider for a plan.
func (a *app) costLab(ctx context.Context, p *plan.Plan, external bool) (*lab.Lab, error) {
	p.Spec.Lab = plan.Lab{Provider: plan.ProviderLocal, Endpoint: plan.EndpointNetns, Clock: plan.ClockWall}
	cfg, err := a.labConfig(ctx, p, "")
	if err != nil {
		return nil, err
	}
	cfg.External = external
	return lab.Up(ctx, cfg)
}

func (a *app) costEnvironment(l *lab.Lab, f costFlags) map[string]any {
	env := campaign.Environment(&plan.Plan{}, revision, l.Environment().Entries())
	for _, key := range []string{"experiment", "clock", "plan_sha256"} {
		delete(env, key)
	}
	env["machine"] = cost.ThisMachine()
	env["seed"], env["rounds"], env["cpu"], env["command"] = f.seed, f.rounds, f.cpu, os.Args
	return env
}
