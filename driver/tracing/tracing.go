// Package tracing makes the traces of a plan: it runs the plan as a campaign in virtual time, has a
// plugin of the emulator observe each guest, and keeps what was seen next to the rows, if the
// account of it is exact.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hookbed/analysis/record"
	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
	"hookbed/driver/vm"
	"hookbed/driver/watch"
)

// Overhead is the memory that the trace of one guest needs, in MiB.
const Overhead = 500

// Config is the input of Run. Its Boot and Recorded are what Run makes of Guest.
type Config struct {
	campaign.SealedConfig
	// Guest boots a block; it calls the block's Watch with what the plugin writes.
	Guest campaign.Boot
	// Plugin is the file of the plugin that guests are observed by.
	Plugin string
	// Observe makes the observer of a cell's measured part.
	Observe func(c plan.Cell) (Observer, error)
	// ObserveRefusals makes the observer of the refused attempts behind it, if the plan has them.
	ObserveRefusals func(c plan.Cell) (Observer, error)
}

// Observer makes a trace of what it is called with for one window. The trace lacks what is known of
// its cell.
type Observer interface {
	watch.Handler
	Result() (*trace.Trace, error)
}

// Result is what became of a run and of its traces.
type Result struct {
	campaign.Result
	// Refused are the cells without a trace, with the reason.
	Refused []Refusal
}

// Refusal is a cell without a trace.
type Refusal struct {
	Cell   plan.Cell
	Reason string
}

// Document is the refused cells for machines.
func (r Result) Document() []map[string]string {
	out := []map[string]string{}
	for _, f := range r.Refused {
		out = append(out, map[string]string{"cell": f.Cell.ID, "title": f.Cell.Title(), "reason": f.Reason})
	}
	return out
}

// PrintRefused is the refused cells for people.
func (r Result) PrintRefused(w io.Writer) {
	for _, f := range r.Refused {
		fmt.Fprintf(w, "  no trace    %s: %s\n", f.Cell.Title(), f.Reason)
	}
}

// Run makes the rows and traces that the run directory lacks. A trace is refused if its trial is not
// ok or its account is not exact (check); the files of another attempt are then removed. Errors are
// those of campaign.RunSealed.
func Run(ctx context.Context, cfg Config) (Result, error) {
	t := &tracer{Config: cfg, made: map[int]made{}}
	t.Boot, t.Recorded = t.boot, t.recorded
	var err error
	t.result.Result, err = campaign.RunSealed(ctx, t.SealedConfig)
	if err == nil {
		err = t.again(ctx)
	}
	if err == nil {
		err = t.explain()
	}
	return t.result, err
}

// explain adds to the refused cells those whose trials have no number, as an earlier process
// recorded, and puts them into the order of the plan.
func (t *tracer) explain() error {
	missing, err := Missing(t.Dir)
	if err != nil {
		return err
	}
	reasons := map[string]string{}
	for _, r := range t.result.Refused {
		reasons[r.Cell.ID] = r.Reason
	}
	t.result.Refused = nil
	for _, tr := range missing {
		cell, _ := t.Plan.CellByID(tr.Cell)
		reason, ok := reasons[tr.Cell]
		if !ok {
			status, why, _ := t.Dir.Outcome(tr)
			reason = noTrace(status, why)
		}
		t.result.Refused = append(t.result.Refused, Refusal{cell, reason})
	}
	return nil
}

// noTrace says that a trial's status is why it has no trace.
func noTrace(status, why string) string { return fmt.Sprintf("its trial is %s: %s", status, why) }

// Missing are the trials whose cells have no trace.
func Missing(dir *rundir.Dir) ([]plan.Trial, error) {
	have, err := dir.Traced()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(dir.Plan().Trials), func(t plan.Trial) bool { return have[t.Cell] }), nil
}

// tracer makes traces. Its boot is called by several goroutines.
type tracer struct {
	Config
	result Result

	mu   sync.Mutex
	made map[int]made // by block, until it is kept
}

// made is what an observer made of a boot.
type made struct {
	trace *trace.Trace
	err   error
}

// boot executes a block and has it observed. What is wrong with the trace is no error of the boot,
// whose results are the same without an observer.
func (t *tracer) boot(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
	cell, err := cellOf(t.Plan, b.Number)
	if err != nil {
		return nil, err
	}
	w, err := t.window(cell)
	if err != nil {
		return nil, err
	}
	b.Plugin = &vm.Plugin{Path: t.Plugin}
	b.Watch = func(r io.Reader) error { return watch.Decode(r, w) }
	data, err := t.Guest(ctx, b, onReply)
	if err != nil {
		return nil, err
	}
	var m made
	m.trace, m.err = t.judge(w, b.Number, cell, data)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made[b.Number] = m
	return data, nil
}

// window has the observers of a cell.
func (t *tracer) window(cell plan.Cell) (*window, error) {
	w := &window{}
	makers := []func(plan.Cell) (Observer, error){t.Observe}
	if t.Plan.Spec.Traced.Refusals > 0 {
		makers = append(makers, t.ObserveRefusals)
	}
	for _, observe := range makers {
		o, err := observe(cell)
		if err != nil {
			return nil, err
		}
		w.parts = append(w.parts, o)
	}
	return w, nil
}

// judge makes one trace of what was observed of a guest, which wrote these results, and refuses what
// is not exact.
func (t *tracer) judge(w *window, block int, cell plan.Cell, results []byte) (*trace.Trace, error) {
	parts, err := w.results()
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		describe(p, t.Plan, block, cell)
	}
	if err := check(parts[0]); err != nil || len(parts) == 1 {
		return parts[0], err
	}
	if parts[0].Drop, err = dropOf(parts[1], results); err != nil {
		return nil, fmt.Errorf("refused attempts: %w", err)
	}
	return parts[0], nil
}

// cellOf is the one cell of a block.
func cellOf(p *plan.Plan, block int) (plan.Cell, error) {
	b, _ := p.BlockByNumber(block)
	cell, ok := p.CellByID(b.Cell)
	if !ok {
		return plan.Cell{}, fmt.Errorf("block %d has no cell of its own: the plan is not one of traces", block)
	}
	return cell, nil
}

// describe completes a trace with what is known of its cell.
func describe(t *trace.Trace, p *plan.Plan, block int, cell plan.Cell) {
	b, _ := p.BlockByNumber(block)
	t.Cell, t.Factors, t.Seed = cell.ID, cell.Factors, b.Seed
}

// recorded keeps the trace of a block, now that the status of its trial is known. A block that an
// earlier process booted has none yet.
func (t *tracer) recorded(block int) error {
	t.mu.Lock()
	m, booted := t.made[block]
	delete(t.made, block)
	t.mu.Unlock()
	if !booted {
		return nil
	}
	return t.keep(block, m)
}

// keep writes a trace if it and its trial are good.
func (t *tracer) keep(block int, m made) error {
	cell, err := cellOf(t.Plan, block)
	if err != nil {
		return err
	}
	status, why, _ := t.Dir.Outcome(plan.Trial{Cell: cell.ID, Block: block, Trial: 1})
	if status == record.StatusOK && m.err == nil {
		if err := trace.Write(t.Dir.Path(), m.trace); err != nil {
			return fmt.Errorf("%w: %w", rundir.ErrStorage, err)
		}
		return nil
	}
	reason := noTrace(status, why)
	if status == record.StatusOK {
		reason = m.err.Error()
	}
	t.result.Refused = append(t.result.Refused, Refusal{cell, reason})
	t.Log.Warn("no trace", "cell", cell.Title(), "reason", reason)
	return t.Dir.DropTrace(cell.ID)
}

// again makes the traces of trials whose rows an earlier process recorded. A guest that is observed
// writes what it wrote before, to the last byte.
func (t *tracer) again(ctx context.Context) error {
	missing, err := t.untraced()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, t.Jobs))
	for _, tr := range missing {
		group.Go(func() error {
			m, err := t.repeat(ctx, tr)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return t.keep(tr.Block, m)
		})
	}
	return group.Wait()
}

// untraced are the trials that have good rows and no trace, and of which none was refused just now.
func (t *tracer) untraced() ([]plan.Trial, error) {
	refused := map[string]bool{}
	for _, r := range t.result.Refused {
		refused[r.Cell.ID] = true
	}
	missing, err := Missing(t.Dir)
	return slices.DeleteFunc(missing, func(tr plan.Trial) bool {
		status, _, _ := t.Dir.Outcome(tr)
		return status != record.StatusOK || refused[tr.Cell]
	}), err
}

// repeat boots the block of a trial once more.
func (t *tracer) repeat(ctx context.Context, tr plan.Trial) (made, error) {
	cell, _ := t.Plan.CellByID(tr.Cell)
	before, saved, err := t.Dir.LoadBlock(tr.Block)
	if err != nil {
		return made{}, err
	}
	b, err := campaign.Compose(t.Plan, tr.Block)
	if err != nil {
		return made{}, err
	}
	t.Progress.Phase(fmt.Sprintf("boot block %d once more, for its trace", tr.Block))
	data, err := t.boot(ctx, b, nil)
	if ctx.Err() != nil {
		return made{}, ctx.Err()
	}
	if err != nil {
		return made{}, fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	t.Progress.Trial(tr, cell, "traced")
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.made[tr.Block]
	delete(t.made, tr.Block)
	if saved && string(data) != string(before) {
		m.err = errors.Join(m.err, errors.New("the guest did not write what it wrote before, so the machine is not the same; trace in a new directory"))
	}
	return m, nil
}
