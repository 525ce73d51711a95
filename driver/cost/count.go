package cost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"hookbed/analysis/record"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
)

// Boot runs one block in a sealed guest and returns its results; lab.Sealer's Run is one.
type Boot func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error)

// CountConfig says what to count in virtual time.
type CountConfig struct {
	Subjects []Subject
	Policies []int // numbers of policies N
	Seed     uint64
	Kernel   string // the lock's name
	External Environment
	Jobs     int // guests at the same time
	Boot     Boot
	Progress func(done, total int, what string)
}

// Count is one program with N policies and a frame, in virtual time.
type Count struct {
	Program  string `json:"program"`
	Hook     string `json:"hook"`
	Project  string `json:"project"`
	Policies int    `json:"policies"`
	Match    string `json:"match"`
	Status   string `json:"status"`
	Reason   string `json:"reason,omitempty"`
	// Run is the instructions of one run of BPF_PROG_TEST_RUN's loop.
	Run int64 `json:"run,omitempty"`
	// Instructions are Run less that of the empty program at the same hook: what a packet
	// costs more than with a program that does nothing.
	Instructions int64 `json:"instructions,omitempty"`
}

func (c *Count) end(status, reason string) { c.Status, c.Reason = status, reason }

// Programs that do nothing, by which the cost of the test run's own loop is seen.
const (
	emptyTC  = "tc-empty"
	emptyXDP = "xdp-empty"
)

// emptySubject is the empty program of a hook.
func emptySubject(hook string) Subject {
	if hook == HookXDP {
		return Subject{Name: emptyXDP, Hook: hook, NoPolicies: true, Accept: xdpPass, Doc: "two instructions", render: renderEmpty(bundle.HookXDPNative)}
	}
	return Subject{Name: emptyTC, Hook: hook, NoPolicies: true, Accept: tcOK, Doc: "two instructions", render: renderEmpty(bundle.HookTCIngress)}
}

func renderEmpty(hook string) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, _ Environment) (instance, error) {
		cell, err := cellOf(fabricBase, "tc-pass", n)
		if err != nil {
			return instance{}, err
		}
		i := newInstance(s, n, cell)
		i.program = bundle.EmptyProgram
		i.step(bundle.EmptyBPF{Handle: i.handle, Hook: hook})
		if s.Hook == HookXDP {
			i.attachNative(s, n)
		}
		return i, nil
	}
}

// controls are programs that differ by a known number of instructions: each spins so often in its
// loop (bpf.ControlInstructions).
func controls() []int { return []int{100, 1000, 10_000} }

func controlSubject(spin int) Subject {
	return Subject{Name: controlName(spin), Hook: HookTC, NoPolicies: true, Accept: tcOK, Doc: "a loop of known cost",
		render: ownProgramOf("tc-control", fabricBase, bpf.ProgControl, option{"spin", strconv.Itoa(spin)})}
}

func controlName(spin int) string { return fmt.Sprintf("control-%d", spin) }

// guestOf is what one sealed guest counts: one program, or those that need none.
type guestOf struct{ levels []*level }

// name is the first program.
func (g *guestOf) name() string { return g.levels[0].subject.Name }

// level is a program with N policies, a setup of the guest.
type level struct {
	subject Subject
	n       int
	cells   []*Count
	// setup is the index in the guest's block, -1 if the program cannot have so many policies.
	setup int
}

// CountInstructions counts the instructions of every subject with every number of policies, each
// subject in a sealed guest of its own: its numbers follow from the program, the policies, the seed,
// the kernel and the helper, and not from what other programs are counted. First come the empty
// program of each hook, and programs of known cost, whose counts must be right. The error is the
// rig's fault or ctx's; what else went wrong is in the counts.
func CountInstructions(ctx context.Context, cfg CountConfig) ([]*Count, error) {
	guests := guestsOf(cfg)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, cfg.Jobs))
	done := make(chan string)
	go func() {
		defer close(done)
		for i, g := range guests {
			group.Go(func() error {
				if err := g.count(ctx, cfg, i+1); err != nil {
					return fmt.Errorf("count %s: %w", g.name(), err)
				}
				done <- "counted " + g.name()
				return nil
			})
		}
		_ = group.Wait()
	}()
	finished := 0
	for what := range done {
		finished++
		if cfg.Progress != nil {
			cfg.Progress(finished, len(guests), what)
		}
	}
	err := group.Wait()
	var out []*Count
	for _, g := range guests {
		for _, l := range g.levels {
			out = append(out, l.cells...)
		}
	}
	if err != nil {
		return out, err
	}
	subtractLoop(out)
	return out, proveCounts(out)
}

func guestsOf(cfg CountConfig) []*guestOf {
	known := []Subject{emptySubject(HookTC)}
	for _, spin := range controls() {
		known = append(known, controlSubject(spin))
	}
	out := []*guestOf{guestWith(cfg, known...)}
	if slices.ContainsFunc(cfg.Subjects, func(s Subject) bool { return s.Hook == HookXDP }) {
		out = append(out, guestWith(cfg, emptySubject(HookXDP)))
	}
	for _, s := range cfg.Subjects {
		out = append(out, guestWith(cfg, s))
	}
	return out
}

func guestWith(cfg CountConfig, subjects ...Subject) *guestOf {
	g := &guestOf{}
	for _, s := range subjects {
		for _, n := range levelsOf(s, cfg.Policies) {
			l := &level{subject: s, n: n, setup: -1}
			for _, c := range newCells(s, n) {
				l.cells = append(l.cells, &Count{Program: c.Program, Hook: c.Hook, Project: c.Project, Policies: n, Match: c.Match, Status: record.StatusOK})
			}
			g.levels = append(g.levels, l)
		}
	}
	return g
}

// proveCounts holds the counts of the controls against the truth.
func proveCounts(counts []*Count) error {
	at := map[string]*Count{}
	for _, c := range counts {
		at[c.Program] = c
	}
	spins := controls()
	for i, spin := range spins[1:] {
		less, more := at[controlName(spins[i])], at[controlName(spin)]
		known := int64(bpf.ControlInstructions(spin) - bpf.ControlInstructions(spins[i]))
		switch {
		case less.Status != record.StatusOK || more.Status != record.StatusOK:
			return fmt.Errorf("count %s and %s, whose cost is known: %s%s", less.Program, more.Program, less.Reason, more.Reason)
		case more.Run-less.Run != known:
			return fmt.Errorf("%s was counted with %d instructions more than %s, and has %d more: these guests do not count right",
				more.Program, more.Run-less.Run, less.Program, known)
		}
	}
	return nil
}

// subtractLoop sets Instructions from Run.
func subtractLoop(counts []*Count) {
	loop := map[string]int64{}
	for _, c := range counts {
		if c.Program == emptyTC || c.Program == emptyXDP {
			loop[c.Hook] = c.Run
		}
	}
	for _, c := range counts {
		if c.Status == record.StatusOK {
			c.Instructions = c.Run - loop[c.Hook]
		}
	}
}

func (g *guestOf) count(ctx context.Context, cfg CountConfig, number int) error {
	block := g.compose(cfg, number)
	if len(block.Block.Setups) == 0 {
		return nil
	}
	data, err := cfg.Boot(ctx, block, nil)
	if err != nil {
		return err
	}
	replies, err := lab.DecodeReplies(data)
	if err != nil {
		return err
	}
	return g.read(replies)
}

func endAll(cells []*Count, status, reason string) {
	for _, c := range cells {
		c.end(status, reason)
	}
}

// Chunks of a guest's setup, in order.
const (
	chunkWiring = iota
	chunkLoad
	chunkEnd
	chunkGuard
)

// repeats are the runs of a system call. The differences between the first three give one
// run's ticks twice; the others are longer, and used as far as they fit between two ticks of the
// clock.
func repeats() []uint32 { return []uint32{2, 3, 4, 8, 16, 32, 64, 128, 256} }

// tries bounds the calls of each length.
const tries = 100

// compose is the block of a guest: for each level a setup, in which the program is loaded as in Measure,
// proven and counted for each frame.
func (g *guestOf) compose(cfg CountConfig, number int) lab.SealedBlock {
	out := lab.SealedBlock{
		Number: number, Kernel: cfg.Kernel, Seed: lab.Seed(cfg.Seed, 1), Files: map[string]bundle.File{},
		Block: bundle.Sealed{Schema: bundle.Schema},
	}
	for _, l := range g.levels {
		i, err := l.subject.render(l.subject, l.n, cfg.External)
		if err != nil {
			status := record.StatusFailed
			if errors.Is(err, errAbsent) || errors.Is(err, datapath.ErrNotSupported) {
				status = record.StatusUnsupported
			}
			endAll(l.cells, status, err.Error())
			continue
		}
		l.setup = len(out.Block.Setups)
		out.Block.Setups = append(out.Block.Setups, l.compose(i))
		for _, f := range i.bundle.Files {
			out.Files[f.SHA256] = f
		}
	}
	return out
}

func (l *level) compose(i instance) bundle.SealedSetup {
	node := datapath.NodeAt(1)
	var staged []bundle.Step
	for _, a := range stage() {
		staged = append(staged, bundle.Step{Node: node.Name, Phase: bundle.Apply, Do: a})
	}
	guard := bundle.Step{Node: node.Name, Phase: bundle.Apply, Do: bundle.Guard{JIT: true, Handle: i.handle}}
	setup := bundle.SealedSetup{Name: i.handle, Apply: make([]bundle.Steps, chunkGuard+1)}
	setup.Apply[chunkWiring] = bundle.Steps{Name: "nodes", Steps: append(lab.Wiring([]datapath.Node{node}), staged...)}
	setup.Apply[chunkLoad] = bundle.Steps{Name: i.handle, Files: i.bundle.FilesOf(i.bundle.Steps), Steps: i.bundle.Steps}
	setup.Apply[chunkEnd] = bundle.Steps{Name: i.handle, Files: i.bundle.FilesOf(i.ends), Steps: i.ends}
	setup.Apply[chunkGuard] = bundle.Steps{Name: i.handle, Steps: []bundle.Step{guard}}
	for _, c := range l.cells {
		setup.Trials = append(setup.Trials, l.trial(c, i, node.Name))
	}
	return setup
}

func (l *level) trial(c *Count, i instance, node string) bundle.SealedTrial {
	frame, want := i.frame(c.Match, l.subject.ttl), l.subject.Accept
	if c.Match == matchNone && !l.subject.NoPolicies {
		want = l.subject.drop()
	}
	step := func(phase bundle.Phase, do bundle.Action) []bundle.Steps {
		return []bundle.Steps{{Name: c.Match, Steps: []bundle.Step{{Node: node, Phase: phase, Do: do}}}}
	}
	run := bundle.TestRun{Name: c.Match, Handle: i.handle, Program: i.program, Frame: frame, Want: want, Repeat: 1}
	return bundle.SealedTrial{
		Name:  c.Match,
		Prove: step(bundle.Prove, bundle.TestRuns{Runs: []bundle.TestRun{run}}),
		Run:   step(bundle.Run, bundle.CountRuns{Handle: i.handle, Program: i.program, Frame: frame, Want: want, Repeats: repeats(), Tries: tries}),
	}
}

// read takes the counts from a guest's results.
func (g *guestOf) read(replies []bundle.SealedReply) error {
	counted := map[*Count]bool{}
	for _, r := range replies {
		l := g.about(r)
		cells := l.cells
		if r.Trial >= 0 && r.Trial < len(l.cells) {
			cells = l.cells[r.Trial : r.Trial+1]
		}
		switch {
		case r.Reply.Error != "":
			if err := l.blame(cells, r); err != nil {
				return err
			}
		case r.Phase == string(bundle.Run) && len(cells) == 1 && len(r.Reply.Results) == 1:
			counted[cells[0]] = true
			run, err := perRun(r.Reply.Results[0].Values)
			if err != nil {
				cells[0].end(record.StatusFailed, err.Error())
			}
			cells[0].Run = run
		}
	}
	for _, l := range g.levels {
		for _, c := range l.cells {
			if c.Status == record.StatusOK && !counted[c] {
				return fmt.Errorf("the sealed guest has no count of N = %d, match %s", l.n, c.Match)
			}
		}
	}
	return nil
}

// about is the level that a reply is about; one without cells if it is about the guest.
func (g *guestOf) about(r bundle.SealedReply) *level {
	for _, l := range g.levels {
		if l.setup == r.Setup && r.Phase != bundle.SealedFacts && r.Phase != bundle.SealedEnd {
			return l
		}
	}
	return &level{}
}

// blame sets the status of the cells that a failed reply is about; the rig's fault goes back.
func (l *level) blame(cells []*Count, r bundle.SealedReply) error {
	status := map[string]string{
		bundle.FaultSubject: record.StatusFailed, bundle.FaultUnsupported: record.StatusUnsupported, bundle.FaultVoid: record.StatusVoid,
	}[r.Reply.Fault]
	if r.Phase == string(bundle.Apply) && r.Chunk == chunkLoad && l.subject.External != "" {
		status = record.StatusUnsupported // whatever the fault: refuse
	}
	if status == "" || len(cells) == 0 {
		return fmt.Errorf("sealed guest: %s", r.Reply.Error)
	}
	endAll(cells, status, r.Reply.Error)
	return nil
}

// perRun is the instructions of one run, from the ticks of calls of 2, 3, 4, ... runs. What a call
// costs apart from its runs is in all of them. Every difference to the call of two runs must give
// the same whole number of instructions, as far as the calls were over before the clock's next tick.
func perRun(ticks map[string]float64) (int64, error) {
	counts := repeats()
	at := func(k int) int64 { return int64(ticks[fmt.Sprint(bundle.CountTicks, counts[k])]) }
	fits := 0
	for fits < len(counts) && at(fits) > 0 && float64(at(fits)) < ticks[bundle.CountPeriod] {
		fits++
	}
	if fits < leastFits {
		return 0, fmt.Errorf("only %d calls of %v runs fit between two ticks of the guest's clock, which are %.0f instructions apart: a run takes too many to be counted",
			fits, counts[:leastFits], ticks[bundle.CountPeriod]/lab.TicksPerInstruction)
	}
	one := at(1) - at(0)
	for k := 1; k < fits; k++ {
		if at(k)-at(0) != one*int64(counts[k]-counts[0]) {
			return 0, fmt.Errorf("runs do not take equal numbers of instructions: %d runs take %d ticks, %d take %d, %d take %d",
				counts[0], at(0), counts[1], at(1), counts[k], at(k))
		}
	}
	if one%lab.TicksPerInstruction != 0 {
		return 0, fmt.Errorf("a run takes %d ticks, no whole number of instructions", one)
	}
	return one / lab.TicksPerInstruction, nil
}

// leastFits is how many calls must fit: with three there are two differences.
const leastFits = 3
