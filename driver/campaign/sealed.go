package campaign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"hookbed/analysis/durable"
	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// SealedConfig is the input of a run in virtual time. Config.Up is not used: the
// lab of a block answers with what a sealed guest wrote.
type SealedConfig struct {
	Config
	Jobs int // sealed guests at the same time
	Boot Boot
	// Facts completes env.json.
	Facts map[string]any
	// Recorded is called when all rows of a block are recorded, in the order of the plan; nil: it is
	// not. Its error ends the run.
	Recorded func(block int) error
}

// Boot runs one block in a sealed guest and returns its results. It calls onReply, which may be nil,
// for each reply while the guest runs.
type Boot func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error)

// Compose makes what a sealed guest executes from one block of the plan, and from
// nothing else. The first setup occurs twice: its first trial, at the beginning,
// warms the guest up and is not used. Where a kernel does not support it, the guest goes on
// with the next one.
func Compose(p *plan.Plan, number int) (lab.SealedBlock, error) {
	block, ok := p.BlockByNumber(number)
	if !ok {
		return lab.SealedBlock{}, fmt.Errorf("compose block %d: the plan has no such block", number)
	}
	out := lab.SealedBlock{
		Number: number, Seed: lab.Seed(p.Spec.Seed, block.Seed), Kernel: p.LabOf(number).Kernel,
		Block: bundle.Sealed{Schema: bundle.Schema, Symbols: p.Spec.Traced != nil}, Files: map[string]bundle.File{},
	}
	for i, group := range setups(p, trialsOf(p, number)) {
		setup, err := composeSetup(p, group, out.Files)
		if err != nil {
			return lab.SealedBlock{}, fmt.Errorf("compose block %d: %w", number, err)
		}
		if i == 0 {
			warm := setup
			warm.Name, warm.Trials = warmUp, setup.Trials[:1]
			out.Block.Setups = append(out.Block.Setups, warm)
		}
		out.Block.Setups = append(out.Block.Setups, setup)
	}
	return out, nil
}

// warmUp is the name of the setup whose trial is not used.
const warmUp = "warm-up"

func trialsOf(p *plan.Plan, block int) []plan.Trial {
	return slices.DeleteFunc(slices.Clone(p.Trials), func(t plan.Trial) bool { return t.Block != block })
}

func composeSetup(p *plan.Plan, trials []plan.Trial, files map[string]bundle.File) (bundle.SealedSetup, error) {
	cell, _ := p.CellByID(trials[0].Cell)
	setup, err := datapath.Render(cell)
	if err != nil {
		return bundle.SealedSetup{}, err
	}
	var out bundle.SealedSetup
	if out.Name, err = lab.SetupName(setup); err != nil {
		return out, err
	}
	apply := &bundle.Bundle{Schema: bundle.Schema, Name: "setup", Files: setup.Files, Steps: setup.Apply}
	out.Apply = append([]bundle.Steps{{Name: "nodes", Steps: lab.Wiring(setup.Topology.Nodes)}}, chunks(apply, files, bundle.Apply)...)
	for _, t := range trials {
		cell, _ := p.CellByID(t.Cell)
		b, err := trialBundle(p, cell, setup)
		if err != nil {
			return out, err
		}
		out.Trials = append(out.Trials, bundle.SealedTrial{
			Name: t.Cell, Prove: chunks(b, files, bundle.Prove), Run: chunks(b, files, bundle.Run, bundle.Collect),
		})
	}
	return out, nil
}

// chunks are the requests that execute phases of a bundle; their files are added
// to files by digest.
func chunks(b *bundle.Bundle, files map[string]bundle.File, phases ...bundle.Phase) []bundle.Steps {
	var out []bundle.Steps
	for _, c := range b.Chunks(phases...) {
		named := b.FilesOf(c.Steps)
		for _, f := range named {
			files[f.SHA256] = f
		}
		out = append(out, bundle.Steps{Name: b.Name, Files: named, Steps: c.Steps})
	}
	return out
}

// booted is the result of one block's guest.
type booted struct {
	number int
	data   []byte
	err    error
}

// RunSealed measures the blocks that have trials to run, Jobs of them at a time,
// and records them in the order of the plan: rows.csv does not depend on which
// guest ended first. The results of an executed block are kept at once; a resumed
// run executes every other block again as a whole. Errors are as those of Run.
func RunSealed(ctx context.Context, cfg SealedConfig) (Result, error) {
	r := newRunner(cfg.Config)
	r.replay, r.done = true, r.Dir.Done()
	cfg.Progress = &lockedProgress{Progress: cfg.Progress}
	if err := r.Dir.WriteEnv(cfg.Facts); err != nil {
		return r.result, fmt.Errorf("%w: %w", ErrRig, err)
	}
	blocks := blocksOf(cfg.Trials)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &guests{cfg: cfg, wake: make(chan struct{}, 1), ready: map[int]booted{}}
	defer s.wait.Wait()
	defer cancel()
	s.start(ctx, longestFirst(r.Plan, blocks))
	for _, number := range blocks {
		taken := r.since("guests")
		b, err := s.take(ctx, number)
		taken()
		if err != nil {
			return r.result, err
		}
		recorded := r.since("record")
		err = r.recordBlock(ctx, b)
		recorded()
		if err != nil {
			return r.result, err
		}
		if cfg.Recorded == nil {
			continue
		}
		if err := cfg.Recorded(number); err != nil {
			return r.result, err
		}
	}
	return r.result, nil
}

// blocksOf lists the blocks that trials belong to, in order.
func blocksOf(trials []plan.Trial) []int {
	seen := map[int]bool{}
	for _, t := range trials {
		seen[t.Block] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// lockedProgress is a Progress for guests that run at the same time.
type lockedProgress struct {
	Progress
	mu sync.Mutex
}

func (p *lockedProgress) Phase(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Progress.Phase(what)
}

func (p *lockedProgress) Trial(t plan.Trial, c plan.Cell, status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Progress.Trial(t, c, status)
}

// guests boots several blocks at the same time.
type guests struct {
	cfg  SealedConfig
	wait sync.WaitGroup

	mu    sync.Mutex
	ready map[int]booted
	wake  chan struct{}
}

// twoHosts is the factor by which a block with two nodes takes longer: both are set
// up.
const twoHosts = 1.15

// longestFirst is the order in which workers get the blocks: with the short ones
// at the end, workers end at about the same time. It changes no number.
func longestFirst(p *plan.Plan, blocks []int) []int {
	length := map[int]float64{}
	for _, number := range blocks {
		length[number] = float64(len(trialsOf(p, number)))
		if b, _ := p.BlockByNumber(number); b.Scenario == plan.MultiHost {
			length[number] *= twoHosts
		}
	}
	out := slices.Clone(blocks)
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(length[b], length[a]) })
	return out
}

// start gives the blocks to Jobs workers, in order.
func (s *guests) start(ctx context.Context, blocks []int) {
	queue := make(chan int, len(blocks))
	for _, n := range blocks {
		queue <- n
	}
	close(queue)
	for range max(1, min(s.cfg.Jobs, len(blocks))) {
		s.wait.Go(func() {
			for number := range queue {
				b := s.boot(ctx, number)
				s.mu.Lock()
				s.ready[number] = b
				s.mu.Unlock()
				select {
				case s.wake <- struct{}{}:
				default:
				}
				if b.err != nil {
					return // later blocks would fail as well, or are not wanted
				}
			}
		})
	}
}

// boot executes a block, and once more if the guest did not reach its end and its disk has room.
func (s *guests) boot(ctx context.Context, number int) booted {
	progress := s.follow(number)
	data, saved, err := s.cfg.Dir.LoadBlock(number)
	if saved || err != nil {
		if err == nil {
			progress.all("kept")
		}
		return booted{number, data, err}
	}
	b, err := Compose(s.cfg.Plan, number)
	if err != nil {
		return booted{number, nil, err}
	}
	for range 2 {
		s.cfg.Progress.Phase(fmt.Sprintf("boot block %d of %d%s", number, len(s.cfg.Plan.Blocks), bootNote(s.cfg.Plan, number)))
		data, err = s.cfg.Boot(ctx, b, progress.onReply)
		if err == nil || ctx.Err() != nil || durable.NoRoom(err) {
			break
		}
		s.cfg.Log.Warn("sealed guest failed", "block", number, "err", err)
	}
	if err == nil {
		err = s.cfg.Dir.SaveBlock(number, data)
	}
	return booted{number, data, err}
}

// blockProgress reports the trials of one block while its guest executes them; its
// rows are made when the guest has ended.
type blockProgress struct {
	plan     *plan.Plan
	progress Progress
	trials   []plan.Trial
	reported int
}

func (s *guests) follow(number int) *blockProgress {
	return &blockProgress{plan: s.cfg.Plan, progress: s.cfg.Progress, trials: trialsOf(s.cfg.Plan, number)}
}

// next reports the next trial.
func (p *blockProgress) next(status string) {
	if p.reported < len(p.trials) {
		t := p.trials[p.reported]
		p.reported++
		cell, _ := p.plan.CellByID(t.Cell)
		p.progress.Trial(t, cell, status)
	}
}

// all reports every trial.
func (p *blockProgress) all(status string) {
	for range p.trials {
		p.next(status)
	}
}

// onReply reports a trial when it has ended, but not the warm-up trial.
func (p *blockProgress) onReply(r bundle.SealedReply) {
	if r.Phase == bundle.SealedUndo && r.Setup > 0 {
		p.next("executed")
	}
}

// take waits for a block. Another block that failed ends the wait, too: its worker
// has stopped, and may have been the one that should execute this block.
func (s *guests) take(ctx context.Context, number int) (booted, error) {
	for {
		b, ok := s.finished(number)
		switch {
		case ok && ctx.Err() != nil:
			return b, ctx.Err()
		case ok && b.err != nil:
			return b, fmt.Errorf("%w: %w", ErrRig, b.err)
		case ok:
			return b, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}

// finished is the given block if it has ended, else one that failed; ok is false if
// there is neither.
func (s *guests) finished(number int) (b booted, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok = s.ready[number]; ok {
		delete(s.ready, number)
		return b, true
	}
	for _, n := range slices.Sorted(maps.Keys(s.ready)) {
		if s.ready[n].err != nil {
			return s.ready[n], true
		}
	}
	return booted{}, false
}

// recordBlock records the trials of an executed block by running them on a lab that
// answers with the block's results.
func (r *runner) recordBlock(ctx context.Context, b booted) error {
	composed, err := Compose(r.Plan, b.number)
	if err != nil {
		return err
	}
	replies, err := lab.DecodeReplies(b.data)
	if err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrRig, b.number, err)
	}
	if r.lab, err = lab.Replay(composed.Block, replies); err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrRig, b.number, err)
	}
	r.block = b.number
	for _, group := range setups(r.Plan, trialsOf(r.Plan, b.number)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		left, fault := r.attempt(ctx, group)
		if fault == nil {
			continue
		}
		if len(left) == 0 || errors.Is(fault, rundir.ErrStorage) {
			return fmt.Errorf("%w: %w", ErrRig, fault)
		}
		// The same guest would do the same again.
		if err := r.recordAll(left, sealedBlame(composed.Block, replies, r.setupName(group)), fault.Error()); err != nil {
			return fmt.Errorf("%w: %w", ErrRig, err)
		}
	}
	r.lab = nil
	return nil
}

// setupName is the name of the trials' setup in a block, "" if it cannot be
// rendered.
func (r *runner) setupName(trials []plan.Trial) string {
	cell, _ := r.Plan.CellByID(trials[0].Cell)
	setup, err := datapath.Render(cell)
	if err != nil {
		return ""
	}
	name, err := lab.SetupName(setup)
	if err != nil {
		return ""
	}
	return name
}

// sealedBlame is the status of a setup that failed and whose fault the helper calls
// the rig's: it is the setup's own if another setup of the same guest was proven and
// measured, since the guest does the same each time.
func sealedBlame(b bundle.Sealed, replies []bundle.SealedReply, setup string) string {
	type turn struct{ setup, trial int }
	ran, failed := map[turn]bool{}, map[turn]bool{}
	for _, reply := range replies {
		at := turn{reply.Setup, reply.Trial}
		failed[at] = failed[at] || reply.Reply.Error != ""
		ran[at] = ran[at] || reply.Phase == string(bundle.Run)
	}
	for at := range ran {
		if ran[at] && !failed[at] && at.setup < len(b.Setups) && b.Setups[at.setup].Name != warmUp && b.Setups[at.setup].Name != setup {
			return record.StatusFailed
		}
	}
	return record.StatusRig
}
