package cost

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
)

// Executor executes bundles on a lab; *lab.Lab is one.
type Executor interface {
	Exec(ctx context.Context, b *bundle.Bundle, phases ...bundle.Phase) (lab.Execution, error)
}

// Config says what to measure. It must have a lab that is up, with a setup begun.
type Config struct {
	Lab      Executor
	Subjects []Subject
	Policies []int // numbers of policies N
	Rounds   int
	Seed     uint64 // of the order within rounds
	CPU      int
	External Environment
	Progress func(done, total int, what string)
	// Sample is called for each measurement as it is made; an error stops the run.
	Sample func(Sample) error
}

// Sample is one timed system call.
type Sample struct {
	Cell   *Cell
	Round  int // 1-based
	Order  int // 1-based within the round
	Repeat uint32
	NS     float64 // of one run, mean of Repeat
}

// Cell is one subject with N policies and a frame.
type Cell struct {
	Program  string `json:"program"`
	Hook     string `json:"hook"`
	Project  string `json:"project"` // "hookbed" or whose program it is
	Policies int    `json:"policies"`
	Match    string `json:"match"`
	Status   string `json:"status"` // as in record: ok, failed, unsupported, void
	Reason   string `json:"reason,omitempty"`
	// NS are the nanoseconds of one run by round.
	NS []float64 `json:"ns,omitempty"`
	// LoadSeconds is how long the policies took to load.
	LoadSeconds float64 `json:"load_seconds,omitempty"`

	handle, program string
	frame           bundle.Frame
	want            uint32
	repeat          uint32
}

func (c *Cell) end(status, reason string) { c.Status, c.Reason = status, reason }

// callNS is the time that one system call should take: long compared with its own
// cost, which is below a microsecond, short compared with what disturbs it.
const (
	callNS      = 1e6
	calibration = 64 // runs that show the pace
	mostRepeats = 1 << 20
)

// Measure loads every subject with every number of policies, proves each
// verdict, and times them in rounds, each in an order of its own. The error is
// the rig's fault or ctx's; what else went wrong is in the cells.
func Measure(ctx context.Context, cfg Config) ([]*Cell, error) {
	m := &measurer{Config: cfg}
	if err := m.exec(ctx, "stage", stage()...); err != nil {
		return nil, fmt.Errorf("make the links that programs name: %w", err)
	}
	for _, s := range cfg.Subjects {
		for _, n := range levelsOf(s, cfg.Policies) {
			cells, err := m.load(ctx, s, n)
			m.cells = append(m.cells, cells...)
			if err != nil {
				return m.cells, err
			}
		}
	}
	if len(m.live()) == 0 {
		return m.cells, nil
	}
	if err := m.calibrate(ctx); err != nil {
		return m.cells, err
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 0x636f7374))
	for round := range cfg.Rounds {
		if err := m.round(ctx, rng, round+1); err != nil {
			return m.cells, err
		}
	}
	return m.cells, nil
}

// MaxXDP is how many XDP programs the kernel's dispatcher has slots for
// (BPF_DISPATCHER_MAX in include/linux/bpf.h). One more would be called another
// way, a few nanoseconds dearer.
const MaxXDP = 48

// XDPPrograms is how many XDP programs Measure attaches at once.
func XDPPrograms(subjects []Subject, policies []int) int {
	n := 0
	for _, s := range subjects {
		if s.Hook == HookXDP {
			n += len(levelsOf(s, policies))
		}
	}
	return n
}

func levelsOf(s Subject, policies []int) []int {
	if s.NoPolicies {
		return []int{0}
	}
	return slices.DeleteFunc(slices.Clone(policies), func(n int) bool { return n < 1 })
}

// stage makes the endpoints' links, whose indices entries of maps name.
func stage() []bundle.Action {
	var out []bundle.Action
	for _, role := range []string{datapath.Client, datapath.Server} {
		out = append(out, bundle.Netns{Name: role}, bundle.Veth{Link: "hb-" + role, Peer: "eth0", PeerIn: role})
	}
	return out
}

type measurer struct {
	Config
	cells []*Cell
}

func (m *measurer) exec(ctx context.Context, name string, do ...bundle.Action) error {
	b := &bundle.Bundle{Schema: bundle.Schema, Name: name}
	for _, a := range do {
		b.Steps = append(b.Steps, bundle.Step{Node: datapath.NodeAt(1).Name, Phase: bundle.Apply, Do: a})
	}
	_, err := m.Lab.Exec(ctx, b, bundle.Apply)
	return err
}

// load loads a subject with n policies and proves its verdicts.
func (m *measurer) load(ctx context.Context, s Subject, n int) ([]*Cell, error) {
	cells := newCells(s, n)
	m.progress(0, fmt.Sprintf("load and prove %s with %d policies", s.Name, n))
	i, err := s.render(s, n, m.External)
	if err != nil {
		status := record.StatusFailed
		if errors.Is(err, errAbsent) || errors.Is(err, datapath.ErrNotSupported) {
			status = record.StatusUnsupported
		}
		return setStatus(cells, status, err), nil
	}
	ex, err := m.Lab.Exec(ctx, i.bundle, bundle.Apply)
	if err := m.end(ctx, i, err != nil); err != nil {
		return cells, fmt.Errorf("end what loaded %s: %w", i.handle, err)
	}
	if err != nil {
		_, err = m.blame(ctx, cells, fmt.Errorf("load: %w", err))
		if s.External != "" && err == nil {
			refuse(cells)
		}
		return cells, err
	}
	if err := m.exec(ctx, i.handle, bundle.Guard{JIT: true, Handle: i.handle}); err != nil {
		return m.blame(ctx, cells, err)
	}
	load := loadSeconds(ex)
	for _, c := range cells {
		c.handle, c.program, c.LoadSeconds = i.handle, i.program, load
		c.frame, c.want = i.frame(c.Match, s.ttl), s.Accept
		if c.Match == matchNone && !s.NoPolicies {
			c.want = s.drop()
		}
		if _, err := m.time(ctx, "prove", 1, c); err != nil {
			if _, err := m.blame(ctx, []*Cell{c}, fmt.Errorf("prove the verdict: %w", err)); err != nil {
				return cells, err
			}
		}
	}
	return cells, nil
}

func newCells(s Subject, n int) []*Cell {
	project := s.External
	if project == "" {
		project = "hookbed"
	}
	var out []*Cell
	for _, match := range matches() {
		if s.NoPolicies && match != matchNone {
			continue
		}
		out = append(out, &Cell{Program: s.Name, Hook: s.Hook, Project: project, Policies: n, Match: match, Status: record.StatusOK})
	}
	return out
}

func loadSeconds(ex lab.Execution) float64 {
	sum := 0.0
	for _, o := range ex.Steps {
		sum += o.Values[bundle.MetricLoad]
	}
	return sum
}

// blame sets the status of cells by whose fault an error is; the rig's goes back.
func (m *measurer) blame(ctx context.Context, cells []*Cell, err error) ([]*Cell, error) {
	var f *lab.Fault
	switch {
	case ctx.Err() != nil:
		return cells, ctx.Err()
	case errors.As(err, &f) && f.Kind == bundle.FaultSubject:
		return setStatus(cells, record.StatusFailed, err), nil
	case errors.As(err, &f) && f.Kind == bundle.FaultUnsupported:
		return setStatus(cells, record.StatusUnsupported, err), nil
	case errors.As(err, &f) && f.Kind == bundle.FaultVoid:
		return setStatus(cells, record.StatusVoid, err), nil
	}
	return cells, err
}

// end ends what loaded a program, so that the next finds its hook free. After a
// failure some of it may never have begun.
func (m *measurer) end(ctx context.Context, i instance, failed bool) error {
	for _, st := range i.ends {
		b := &bundle.Bundle{Schema: bundle.Schema, Name: i.handle, Steps: []bundle.Step{st}}
		if _, err := m.Lab.Exec(ctx, b, bundle.Apply); err != nil && !failed {
			return err
		}
	}
	return ctx.Err()
}

// refuse makes of a project's failure to load a policy set what it is: something
// that it cannot do.
func refuse(cells []*Cell) {
	for _, c := range cells {
		c.Status = record.StatusUnsupported
	}
}

func setStatus(cells []*Cell, status string, err error) []*Cell {
	for _, c := range cells {
		c.end(status, err.Error())
	}
	return cells
}

func (m *measurer) live() (out []*Cell) {
	for _, c := range m.cells {
		if c.Status == record.StatusOK {
			out = append(out, c)
		}
	}
	return out
}

// time runs cells once each, in the order given, and returns the nanoseconds of
// a run of each.
func (m *measurer) time(ctx context.Context, name string, repeat uint32, cells ...*Cell) ([]float64, error) {
	step := bundle.TestRuns{CPU: m.CPU}
	for i, c := range cells {
		r := bundle.TestRun{Name: fmt.Sprint(i), Handle: c.handle, Program: c.program, Frame: c.frame, Want: c.want, Repeat: repeat}
		if repeat == 0 {
			r.Repeat = c.repeat
		}
		step.Runs = append(step.Runs, r)
	}
	b := &bundle.Bundle{Schema: bundle.Schema, Name: name, Steps: []bundle.Step{{Node: datapath.NodeAt(1).Name, Phase: bundle.Run, Do: step}}}
	ex, err := m.Lab.Exec(ctx, b, bundle.Run)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(cells))
	for i := range cells {
		out[i] = ex.Steps[0].Values[fmt.Sprint(i)]
	}
	return out, nil
}

func (m *measurer) calibrate(ctx context.Context) error {
	live := m.live()
	ns, err := m.time(ctx, "calibrate", calibration, live...)
	if err != nil {
		return fmt.Errorf("calibrate: %w", err)
	}
	for i, c := range live {
		c.repeat = uint32(math.Max(16, math.Min(callNS/max(ns[i], 1), mostRepeats)))
	}
	return nil
}

func (m *measurer) round(ctx context.Context, rng *rand.Rand, round int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.progress(round, "time the programs")
	order := m.live()
	rng.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
	ns, err := m.time(ctx, fmt.Sprint("round ", round), 0, order...)
	if err != nil {
		return fmt.Errorf("round %d: %w", round, err)
	}
	for i, c := range order {
		c.NS = append(c.NS, ns[i])
		if m.Sample == nil {
			continue
		}
		if err := m.Sample(Sample{Cell: c, Round: round, Order: i + 1, Repeat: c.repeat, NS: ns[i]}); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurer) progress(round int, what string) {
	if m.Progress != nil {
		m.Progress(round, m.Rounds, what)
	}
}
