// Package campaign is the loop of a run: blocks, setups, trials. It retries
// trials that failed by the rig's fault, records those that failed by the
// subject's, and takes every setup and lab down. It starts no machine itself
// (package lab does) and executes no step (the guest helper does).
package campaign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// ErrRig is wrapped when the testbed itself failed too often to continue.
var ErrRig = errors.New("rig fault")

// Config is the input of a run.
type Config struct {
	Plan *plan.Plan
	Dir  *rundir.Dir
	// Trials are the trials to run, in order; a resumed run has fewer than the plan.
	Trials []plan.Trial
	// Up brings the lab up for one block.
	Up func(ctx context.Context, block int) (*lab.Lab, error)
	// Environment makes the content of env.json from the facts of the lab.
	Environment func(*lab.Lab) map[string]any
	Progress    Progress
	Log         *slog.Logger
}

// Progress receives the events of a run. Calls never overlap.
type Progress interface {
	Phase(what string)                              // "boot lab", "run block 1"
	Trial(t plan.Trial, c plan.Cell, status string) // a trial has ended
}

// Result counts the trials by status and the seconds by part of the run.
type Result struct {
	Status  map[string]int
	Seconds map[string]float64 // images, boot, endpoints, apply, prove, measure, teardown; in virtual time guests, record
	// Teardown are the setups that could not be removed. Their trials already had
	// rows, and later trials ran in a fresh lab.
	Teardown []TeardownFault
}

// TeardownFault is a setup that could not be removed.
type TeardownFault struct {
	Cell   plan.Cell // a cell of the setup
	Status string    // whose fault it is: record.StatusFailed or record.StatusRig
	Reason string
}

// runner is a run at work.
type runner struct {
	Config
	result    Result
	lab       *lab.Lab
	block     int              // of the lab
	env       map[string]any   // env.json as written
	described map[string]bool  // boots that env describes, by name
	blamed    map[string]error // faults of setups that are known to be their own, by setup ID
	broken    map[string]bool  // setups that failed by the lab's fault since it last worked

	// The load gate. busy is why the next trials are void, or "".
	load               func() (float64, error)
	loadWait, loadPoll time.Duration
	busy               string

	others others // what the clients of earlier trials used

	lives error // what could not be ended, which the run's error must name

	// replay: a run in virtual time, whose trials are already executed. It only
	// records them, except those that an earlier process recorded (done).
	replay bool
	done   map[rundir.Key]string
}

// Run measures the trials. Cancelling ctx ends it cleanly after the current step;
// what was measured is kept and the error is ctx's. Other errors wrap ErrRig or
// plan.ErrInvalid.
func Run(ctx context.Context, cfg Config) (Result, error) {
	return newRunner(cfg).run(ctx)
}

func newRunner(cfg Config) *runner {
	return &runner{Config: cfg, result: Result{Status: map[string]int{}, Seconds: map[string]float64{}},
		described: map[string]bool{}, blamed: map[string]error{}, broken: map[string]bool{}, others: others{}, load: loadAverage, loadWait: loadWait, loadPoll: loadPoll}
}

func (r *runner) run(ctx context.Context) (_ Result, err error) {
	defer func() {
		if down := r.down(ctx); down != nil {
			r.Log.Warn("teardown", "err", down)
		}
		err = errors.Join(err, r.lives)
	}()
	for _, group := range setups(r.Plan, r.Trials) {
		if err := ctx.Err(); err != nil {
			return r.result, err
		}
		if group = r.due(group); len(group) == 0 {
			continue
		}
		if err := r.group(ctx, group); err != nil {
			return r.result, err
		}
	}
	if err := r.down(ctx); err != nil {
		return r.result, fmt.Errorf("%w: %w", ErrRig, err)
	}
	return r.result, nil
}

// setups groups consecutive trials that share block, repetition and setup.
func setups(p *plan.Plan, trials []plan.Trial) [][]plan.Trial {
	var out [][]plan.Trial
	key := func(t plan.Trial) string {
		c, _ := p.CellByID(t.Cell)
		return fmt.Sprint(t.Block, t.Trial, c.Setup)
	}
	for i, t := range trials {
		if i > 0 && key(trials[i-1]) == key(t) {
			out[len(out)-1] = append(out[len(out)-1], t)
			continue
		}
		out = append(out, []plan.Trial{t})
	}
	return out
}

// group runs the trials of one setup, and once more in a fresh lab those that a
// rig fault ended. Trials that still have no row then are recorded with the verdict
// of blame.
func (r *runner) group(ctx context.Context, trials []plan.Trial) error {
	cell, _ := r.Plan.CellByID(trials[0].Cell)
	left, fault := r.attempt(ctx, trials)
	var first error
	if fault != nil && ctx.Err() == nil && len(left) > 0 && !fatal(fault) && !alike(r.blamed[cell.Setup], fault) {
		r.Log.Warn("rig fault, trying once more in a fresh lab", "err", fault)
		r.recover(ctx)
		first = fault
		left, fault = r.attempt(ctx, left)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case fault == nil:
		return nil
	case errors.Is(fault, plan.ErrInvalid): // the machine found it, but did not cause it
		return fault
	case len(left) == 0, fatal(fault):
		return fmt.Errorf("%w: %w", ErrRig, fault)
	}
	r.recover(ctx)
	v, err := r.blame(ctx, left[0].Block, cell, first, fault)
	if err != nil {
		return err
	}
	if err := r.recordAll(left, v.status, v.reason); err != nil {
		return fmt.Errorf("%w: %w", ErrRig, err)
	}
	return r.stopIfBroken(v, fault)
}

// fatal reports whether a fault concerns the whole run, so that a retry cannot
// help: the lab does not come up, results cannot be kept, or the plan is invalid.
func fatal(err error) bool {
	var up *upError
	return errors.As(err, &up) || errors.Is(err, rundir.ErrStorage) || errors.Is(err, plan.ErrInvalid)
}

// upError is a lab that did not come up.
type upError struct{ err error }

func (e *upError) Error() string { return e.err.Error() }
func (e *upError) Unwrap() error { return e.err }

// recover takes down a lab that a fault may have damaged.
func (r *runner) recover(ctx context.Context) {
	if err := r.down(ctx); err != nil {
		r.Log.Warn("teardown after a rig fault", "err", err)
	}
}

// down takes the lab down, if there is one.
func (r *runner) down(ctx context.Context) error {
	if r.lab == nil {
		return nil
	}
	l := r.lab
	r.lab = nil
	defer r.clock("teardown")()
	if err := l.Close(ctx); err != nil {
		r.noteLiving(err)
		return fmt.Errorf("take the lab down: %w", err)
	}
	return nil
}

// noteLiving keeps the error of a teardown after which something still runs.
func (r *runner) noteLiving(err error) {
	if errors.Is(err, lab.ErrStillRuns) {
		r.lives = errors.Join(r.lives, err)
	}
}

// ensureLab boots the lab for a block; every block has its own boot.
func (r *runner) ensureLab(ctx context.Context, block int) error {
	if r.lab != nil && r.block == block {
		return nil
	}
	if err := r.down(ctx); err != nil {
		return err
	}
	if !r.Plan.Spec.Lab.Capabilities().Here() {
		if err := r.awaitQuiet(ctx); err != nil {
			return err
		}
	}
	r.Progress.Phase(fmt.Sprintf("bring up the lab for block %d%s", block, bootNote(r.Plan, block)))
	l, err := r.Up(ctx, block)
	if err != nil {
		return &upError{fmt.Errorf("bring up the lab: %w", err)}
	}
	r.lab, r.block = l, block
	for part, s := range l.Timings {
		r.result.Seconds[part] += s
	}
	if err := r.describe(l, r.Plan.BootName(block)); err != nil {
		return err
	}
	r.Progress.Phase(fmt.Sprintf("run block %d", block))
	return nil
}

// bootNote names the boot of a block, if the plan compares boots.
func bootNote(p *plan.Plan, block int) string {
	if name := p.BootName(block); name != "" {
		return " (" + name + ")"
	}
	return ""
}

// describe writes the environment once, or, if the plan compares boots, once for
// each boot into the same file.
func (r *runner) describe(l *lab.Lab, boot string) error {
	if r.described[boot] {
		return nil
	}
	env := r.Environment(l)
	if boot != "" {
		r.addBoot(env, boot)
	}
	write := r.Dir.WriteEnv
	if r.env != nil {
		write = r.Dir.RewriteEnv
	}
	if err := write(env); err != nil {
		return err
	}
	r.env, r.described[boot] = env, true
	return nil
}

// addBoot adds to env, for the parts that differ by boot, the entries of the boots
// written so far.
func (r *runner) addBoot(env map[string]any, boot string) {
	for _, key := range []string{"kernel_release", "image_sha256", "image_drift", "machines", "nodes"} {
		all, _ := r.env[key].(map[string]any)
		if all == nil {
			all = map[string]any{}
		}
		all[boot] = env[key]
		env[key] = all
	}
}

// attempt applies the setup and runs its trials. It returns the trials that
// still have no row and the rig's fault that stopped it, if any.
func (r *runner) attempt(ctx context.Context, trials []plan.Trial) (left []plan.Trial, fault error) {
	if err := r.ensureLab(ctx, trials[0].Block); err != nil {
		return trials, err
	}
	cell, _ := r.Plan.CellByID(trials[0].Cell)
	setup, err := datapath.Render(cell)
	if err != nil {
		return trials, err
	}
	if err := datapath.Check(setup, r.lab.Facts(setup.Topology.Server.Node.Name)); err != nil {
		return nil, r.recordAll(trials, record.StatusUnsupported, err.Error())
	}
	defer func() { r.end(ctx, setup, cell, fault) }()
	if r.Plan.Spec.Lab.Capabilities().Here() {
		if err := r.awaitQuiet(ctx); err != nil {
			return trials, err
		}
	}
	applied, err := r.applySetup(ctx, setup)
	if err != nil {
		return r.recordSetupFault(ctx, trials, fmt.Errorf("apply: %w", err))
	}
	for i, t := range trials {
		if err := r.trial(ctx, t, setup, applied); err != nil {
			return trials[i:], err
		}
	}
	clear(r.broken) // the lab works
	return nil, nil
}

// end removes a setup. A fault of the removal does not change its trials, which
// have their rows, but the lab is not used any more. After a fault of the rig,
// which already took the lab out of use, it is not reported.
func (r *runner) end(ctx context.Context, setup datapath.Setup, cell plan.Cell, fault error) {
	done := r.clock("teardown")
	err := r.lab.End(ctx, setup)
	done()
	r.noteLiving(err)
	if err == nil || ctx.Err() != nil || fault != nil {
		return
	}
	r.Log.Warn("the setup could not be taken away", "cell", cell.Title(), "err", err)
	status := statusOf(err)
	if r.replay {
		status = record.StatusFailed // the same guest would do the same again
	} else {
		r.recover(ctx)
	}
	r.result.Teardown = append(r.result.Teardown, TeardownFault{cell, status, err.Error()})
}

// recordSetupFault records trials whose setup failed by the subject's or the
// kernel's fault; it returns a rig fault to the caller with the trials.
func (r *runner) recordSetupFault(ctx context.Context, trials []plan.Trial, err error) ([]plan.Trial, error) {
	status := statusOf(err)
	if ctx.Err() != nil || status == record.StatusRig {
		return trials, err
	}
	return nil, r.recordAll(trials, status, err.Error())
}

// statusOf is the status of a trial that ended with an error: by the kind of fault
// that the helper reported, and the rig's for every other error.
func statusOf(err error) string {
	var f *lab.Fault
	if errors.As(err, &f) {
		switch f.Kind {
		case bundle.FaultSubject:
			return record.StatusFailed
		case bundle.FaultUnsupported:
			return record.StatusUnsupported
		case bundle.FaultVoid:
			return record.StatusVoid
		}
	}
	return record.StatusRig
}

// clock is since, of a lab that works: what a sealed guest has done already takes no time.
func (r *runner) clock(part string) func() {
	if r.replay {
		return func() {}
	}
	return r.since(part)
}

// since adds the time until the returned function is called to a part of
// Result.Seconds.
func (r *runner) since(part string) func() {
	start := time.Now()
	return func() { r.result.Seconds[part] += time.Since(start).Seconds() }
}
