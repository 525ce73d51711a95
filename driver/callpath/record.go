package callpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// Handles of the recordings, and the raw files with what they read: with the node's name.
const (
	handle  = "recording"
	rawText = "recording-"
)

// bufferKiB is the tracer's buffer for each CPU. Under it fit several hundred transactions and what
// a client does when it ends.
const bufferKiB = 16 << 10

// Transactions of the runs in which instructions are counted. What else the programs do is the
// same in both, so the difference is of the transactions alone.
const (
	countedFew  = 500
	countedMany = 2500
)

// Config says what is recorded.
type Config struct {
	Plan  *plan.Plan
	Match func(plan.Cell) bool // nil: every cell
	// Transactions is how many the recorded client makes.
	Transactions int
	// Drops: only the packets that are dropped while the enforcement is proven, no calls.
	Drops bool
	// Up brings the lab up for a block.
	Up func(ctx context.Context, block int) (*lab.Lab, error)
	// Began is called before each cell; nil is nothing.
	Began func(plan.Cell)
}

// Recording is what was recorded of one cell.
type Recording struct {
	Cell    string            `json:"cell"`
	Factors map[string]string `json:"factors"`
	Clock   string            `json:"clock"`
	Kernel  string            `json:"kernel_release"`
	Status  string            `json:"status"` // as of a trial in rows.csv
	Reason  string            `json:"reason,omitempty"`

	Calls *Calls `json:"calls,omitempty"`
	// Instructions in the kernel for each packet; nil if they were not counted, for WhyNot.
	Instructions *Instructions `json:"instructions,omitempty"`
	WhyNot       string        `json:"instructions_not_counted,omitempty"`
	Drops        *Drops        `json:"drops,omitempty"`

	Path trace.Path        `json:"-"` // order only: no costs
	Raw  map[string]string `json:"-"` // what the tracer said, by rawCalls or rawDrops and the node
}

// Calls say of a path how it came to be.
type Calls struct {
	// OrderOnly is true: a path that a tracer of calls recorded has no costs.
	OrderOnly bool `json:"order_only"`
	// Buffer is "instance" or "top-level".
	Buffer string `json:"buffer"`
	Lost   uint64 `json:"lost_entries"`
	Unit   string `json:"unit"`
	Units  int    `json:"units"`
	Same   int    `json:"same"`
	Paths  int    `json:"paths"`
	// Functions is how many calls the path has.
	Functions int `json:"function_calls"`
}

// Instructions are those of client and server in the kernel, softirqs in their context included, by
// the CPU's counter on the wall clock.
type Instructions struct {
	Clock          string  `json:"clock"`
	PerTransaction float64 `json:"per_transaction"`
	PerPacket      float64 `json:"per_packet,omitempty"`
}

// Turns are the functions of which a call begins a transaction of a workload, in the client and in
// the server; ok is false if it has none.
func Turns(workload string) (client, server []string, ok bool) {
	switch workload {
	case "TCP_RR":
		return []string{"tcp_sendmsg"}, []string{"tcp_sendmsg"}, true
	case "TCP_CRR":
		return []string{"tcp_v4_connect", "tcp_v6_connect"}, []string{"inet_csk_accept"}, true
	}
	return nil, nil, false
}

// Run records the cells of a plan, one after the other, and has each kept as it is done. It ends at
// a fault of the rig; every other fault is in the recording's status and reason.
func Run(ctx context.Context, cfg Config, keep func(Recording) error) error {
	r := &runner{Config: cfg}
	err := r.blocks(ctx, keep)
	if r.lab != nil {
		err = errors.Join(err, r.lab.Close(ctx))
	}
	return err
}

type runner struct {
	Config
	lab        *lab.Lab
	block      int
	notCounted string // why instructions are not, as the first cell found
}

// Due are the cells that are recorded, each with the block of its first trial, those of a setup
// next to each other.
func (c Config) Due() (cells []plan.Cell, blocks []int) {
	done := map[string]bool{}
	for _, t := range c.Plan.Trials {
		cell, _ := c.Plan.CellByID(t.Cell)
		key := cell.ID
		if c.Drops {
			key = cell.Setup // the proof is the same for all workloads
		}
		if _, _, ok := Turns(cell.Get(plan.FactorWorkload)); done[key] || c.Match != nil && !c.Match(cell) || !c.Drops && !ok {
			continue
		}
		done[key] = true
		cells, blocks = append(cells, cell), append(blocks, t.Block)
	}
	return cells, blocks
}

// LeftOut are the chosen workloads of which no calls are recorded: Turns has none of them.
func (c Config) LeftOut() []string {
	var out []string
	for _, cell := range c.Plan.Cells {
		w := cell.Get(plan.FactorWorkload)
		if _, _, ok := Turns(w); !ok && !c.Drops && (c.Match == nil || c.Match(cell)) && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

func (r *runner) blocks(ctx context.Context, keep func(Recording) error) error {
	cells, blocks := r.Due()
	for i, cell := range cells {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.need(ctx, blocks[i]); err != nil {
			return err
		}
		if r.Began != nil {
			r.Began(cell)
		}
		rec, err := r.cell(ctx, cell)
		if err != nil {
			return fmt.Errorf("record %s: %w", cell.Title(), err)
		}
		if err := keep(rec); err != nil {
			return err
		}
	}
	return nil
}

// need brings the lab of a block up.
func (r *runner) need(ctx context.Context, block int) (err error) {
	if r.lab != nil && r.block == block {
		return nil
	}
	if r.lab != nil {
		if err := r.lab.Close(ctx); err != nil {
			return err
		}
		r.lab = nil
	}
	r.lab, err = r.Up(ctx, block)
	r.block = block
	return err
}

// cell applies a cell's datapath, records, and removes it.
func (r *runner) cell(ctx context.Context, cell plan.Cell) (rec Recording, err error) {
	rec = Recording{Cell: cell.ID, Factors: cell.Factors, Clock: plan.ClockWall, Status: record.StatusOK, Raw: map[string]string{}}
	setup, err := datapath.Render(cell)
	if err != nil {
		return rec, err
	}
	server := setup.Topology.Server.Node.Name
	rec.Kernel = r.lab.Facts(server)["kernel.release"]
	if err := datapath.Check(setup, r.lab.Facts(server)); err != nil {
		rec.Status, rec.Reason = record.StatusUnsupported, err.Error()
		return rec, nil
	}
	defer func() { err = errors.Join(err, r.lab.End(ctx, setup)) }()
	if err := r.lab.Begin(ctx, setup); err != nil {
		return rec, err
	}
	return rec, rec.judge(r.observe(ctx, cell, setup, &rec))
}

// judge turns a fault that is not the rig's into a status.
func (rec *Recording) judge(err error) error {
	var f *lab.Fault
	if !errors.As(err, &f) {
		return err
	}
	switch f.Kind {
	case bundle.FaultSubject:
		rec.Status = record.StatusFailed
	case bundle.FaultUnsupported:
		rec.Status = record.StatusUnsupported
	case bundle.FaultVoid:
		rec.Status = record.StatusVoid
	default:
		return err
	}
	rec.Reason = err.Error()
	return nil
}

// observe applies, proves and records.
func (r *runner) observe(ctx context.Context, cell plan.Cell, setup datapath.Setup, rec *Recording) error {
	apply := &bundle.Bundle{Schema: bundle.Schema, Name: "setup", Files: setup.Files, Steps: setup.Apply}
	if _, err := r.lab.Exec(ctx, apply, bundle.Apply); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := r.prove(ctx, cell, setup, rec); err != nil {
		return fmt.Errorf("prove enforcement: %w", err)
	}
	if r.Drops {
		return nil
	}
	if err := r.calls(ctx, cell, setup, rec); err != nil {
		return fmt.Errorf("record calls: %w", err)
	}
	if err := r.count(ctx, cell, setup, rec); err != nil {
		return fmt.Errorf("count instructions: %w", err)
	}
	return nil
}

// exec executes a phase of a cell's trial with so many transactions, as rewritten, and undoes it.
func (r *runner) exec(ctx context.Context, cell plan.Cell, setup datapath.Setup, transactions int, phase bundle.Phase, rewrite func([]bundle.Step) []bundle.Step) (ex lab.Execution, err error) {
	b, err := campaign.Bundle(counted(cell, transactions), setup)
	if err != nil {
		return ex, err
	}
	var steps []bundle.Step
	for _, s := range b.Steps {
		if s.Phase == phase {
			steps = append(steps, s)
		}
	}
	b.Steps = rewrite(steps)
	marks, err := r.lab.Mark(ctx, setup.Topology)
	if err != nil {
		return ex, err
	}
	ex, err = r.lab.Exec(ctx, b, phase)
	return ex, errors.Join(err, r.lab.UndoTo(ctx, marks))
}

// counted is a cell that ends after so many transactions.
func counted(cell plan.Cell, transactions int) plan.Cell {
	cell.Factors = maps.Clone(cell.Factors)
	delete(cell.Factors, plan.FactorDuration)
	delete(cell.Factors, plan.FactorWarmup)
	cell.Factors[plan.FactorCount] = strconv.Itoa(transactions)
	return cell
}

// prove proves that the datapath enforces, and records what it drops.
func (r *runner) prove(ctx context.Context, cell plan.Cell, setup datapath.Setup, rec *Recording) error {
	tries, denied := probes(setup.Prove)
	ex, err := r.exec(ctx, cell, setup, 1, bundle.Prove, func(steps []bundle.Step) []bundle.Step {
		if !denied {
			return steps
		}
		return around(steps, tries, r.recorders(setup), func(string) bundle.Action {
			return bundle.RecordDrops{Handle: handle, IPv6: setup.Topology.IPv6}
		})
	})
	if err != nil || !denied {
		return err
	}
	for _, node := range r.recorders(setup) {
		rec.Raw[rawDrops+node] = ex.Raw[rawText+node]
		d, err := ReadDrops(strings.NewReader(rec.Raw[rawDrops+node]))
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		rec.Drops = rec.Drops.with(d)
	}
	for _, p := range denials(setup.Prove) {
		rec.Drops.Denied = append(rec.Drops.Denied, p.What)
	}
	return nil
}

// probes finds the step with the attempts, and whether some of them must be denied.
func probes(steps []bundle.Step) (is func(bundle.Step) bool, denied bool) {
	is = func(s bundle.Step) bool { _, ok := s.Do.(bundle.Probes); return ok }
	return is, len(denials(steps)) > 0
}

func denials(steps []bundle.Step) (out []bundle.Probe) {
	for _, s := range steps {
		if p, ok := s.Do.(bundle.Probes); ok {
			out = append(out, slices.DeleteFunc(slices.Clone(p.Tries), func(t bundle.Probe) bool { return t.Want != bundle.Deny })...)
		}
	}
	return out
}

// around puts a recording of each node around the step that is meant.
func around(steps []bundle.Step, is func(bundle.Step) bool, nodes []string, begin func(node string) bundle.Action) []bundle.Step {
	at := slices.IndexFunc(steps, is)
	if at < 0 {
		return steps
	}
	phase := steps[at].Phase
	var before, after []bundle.Step
	for _, n := range nodes {
		before = append(before, bundle.Step{Node: n, Phase: phase, Do: begin(n)})
		after = append(after, bundle.Step{Node: n, Phase: phase, Do: bundle.EndRecord{Handle: handle, Out: rawText + n}})
	}
	return slices.Concat(steps[:at], before, steps[at:at+1], after, steps[at+1:])
}

// recorders are the nodes that are recorded: each with a kernel of its own.
func (r *runner) recorders(s datapath.Setup) (out []string) {
	if r.Plan.Spec.Lab.Capabilities().Here() {
		return []string{s.Topology.Client.Node.Name}
	}
	for _, n := range s.Topology.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// client says whether a step is the measured client, which alone keeps what it prints.
func client(s bundle.Step) bool {
	e, ok := s.Do.(bundle.Exec)
	return ok && e.Out != ""
}

// servers are the handles of the servers that run under a node's kernel.
func (r *runner) servers(steps []bundle.Step, node string) (out []string) {
	for _, s := range steps {
		if start, ok := s.Do.(bundle.Start); ok && (s.Node == node || r.Plan.Spec.Lab.Capabilities().Here()) {
			out = append(out, start.Handle)
		}
	}
	return out
}

// recorded has the client's step be part of its node's recording.
func recorded(steps []bundle.Step) []bundle.Step {
	out := slices.Clone(steps)
	for i, s := range out {
		if e, ok := s.Do.(bundle.Exec); ok && client(s) {
			e.Recorded = handle
			out[i].Do = e
		}
	}
	return out
}

// inTurns has client and server take turns on a CPU, as in virtual time: under the kernel's usual
// policy one may preempt the other anywhere, and every transaction has an order of its own.
func inTurns(steps []bundle.Step) []bundle.Step {
	out := slices.Clone(steps)
	for i, s := range out {
		switch do := s.Do.(type) {
		case bundle.Start:
			do.Sched = bundle.SchedRR
			out[i].Do = do
		case bundle.Exec:
			do.Sched = bundle.SchedRR
			out[i].Do = do
		}
	}
	return out
}

// calls records the functions of a few transactions.
func (r *runner) calls(ctx context.Context, cell plan.Cell, setup datapath.Setup, rec *Recording) error {
	nodes := r.recorders(setup)
	ex, err := r.exec(ctx, cell, setup, r.Transactions, bundle.Run, func(steps []bundle.Step) []bundle.Step {
		return inTurns(recorded(around(steps, client, nodes, func(node string) bundle.Action {
			// Between nodes packets arrive by interrupts, which the idle tasks take.
			return bundle.RecordCalls{Handle: handle, Servers: r.servers(steps, node), Idle: len(nodes) > 1, BufferKiB: bufferKiB}
		})))
	})
	if err != nil {
		return err
	}
	rec.Calls = &Calls{OrderOnly: true, Buffer: "top-level", Unit: unitOf(cell)}
	pid := 0
	for _, s := range ex.Steps {
		switch s.Step.Do.(type) {
		case bundle.Exec:
			pid = max(pid, int(s.Values[bundle.ValueClient]))
		case bundle.RecordCalls:
			if s.Values[bundle.ValueInstance] == 1 {
				rec.Calls.Buffer = "instance"
			}
		case bundle.EndRecord:
			rec.Calls.Lost += uint64(s.Values[bundle.ValueLost])
		}
	}
	clientNode := setup.Topology.Client.Node.Name
	first, second, _ := Turns(cell.Get(plan.FactorWorkload))
	for _, node := range nodes {
		how := Cut{Client: pid, Server: serverProgram(ex), Idle: len(nodes) > 1, Of: roleClient, At: first, OtherAt: second}
		if node != clientNode {
			how.Client, how.Of, how.At, how.OtherAt = 0, roleServer, second, nil
		}
		rec.Raw[rawCalls+node] = ex.Raw[rawText+node]
		p, err := ReadPath(strings.NewReader(rec.Raw[rawCalls+node]), how)
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		rec.addPath(p, node == clientNode)
	}
	return nil
}

// serverProgram is the name of the program that the server runs.
func serverProgram(ex lab.Execution) string {
	for _, s := range ex.Steps {
		if start, ok := s.Step.Do.(bundle.Start); ok {
			return filepath.Base(start.Argv[0])
		}
	}
	return ""
}

func unitOf(cell plan.Cell) string {
	if cell.Get(plan.FactorWorkload) == "TCP_CRR" {
		return trace.UnitConnection
	}
	return trace.UnitTransaction
}

// addPath adds the path of a node. How units compare is said of the client's.
func (rec *Recording) addPath(p trace.Path, clients bool) {
	calls := append(rec.Path.Calls, p.Calls...)
	if clients {
		rec.Path = p
		rec.Calls.Units, rec.Calls.Same, rec.Calls.Paths = p.Units, p.Same, p.Paths
	}
	rec.Path.Calls = calls
	rec.Calls.Functions = 0
	for _, thread := range calls {
		rec.Calls.Functions += begun(thread.Calls)
	}
}

// begun is how many calls begin, in all.
func begun(calls []*trace.Call) (n int) {
	for _, c := range calls {
		if !c.Resumed {
			n++
		}
		n += begun(c.Calls)
	}
	return n
}

// count counts the instructions of few and of many transactions, without a recording of calls. Where
// the machines have no counter, it does not try again.
func (r *runner) count(ctx context.Context, cell plan.Cell, setup datapath.Setup, rec *Recording) error {
	if rec.WhyNot = r.notCounted; rec.WhyNot != "" {
		return nil
	}
	nodes := r.recorders(setup)
	var sums []float64
	for _, n := range []int{countedFew, countedMany} {
		ex, err := r.exec(ctx, cell, setup, n, bundle.Run, func(steps []bundle.Step) []bundle.Step {
			return recorded(around(steps, client, nodes, func(node string) bundle.Action {
				return bundle.CountInstructions{Handle: handle, Servers: r.servers(steps, node)}
			}))
		})
		if err != nil {
			return err
		}
		sum := 0.0
		for _, s := range ex.Steps {
			if _, ok := s.Step.Do.(bundle.CountInstructions); ok && s.Note != "" {
				rec.WhyNot, r.notCounted = s.Note, s.Note
				return nil
			}
			sum += s.Values[bundle.ValueKernelInstructions]
		}
		sums = append(sums, sum)
	}
	rec.Instructions = instructionsOf(sums[0], sums[1], unitOf(cell))
	return nil
}

// instructionsOf are those of one unit, of the sums of countedFew and of countedMany.
func instructionsOf(few, many float64, unit string) *Instructions {
	out := &Instructions{Clock: plan.ClockWall, PerTransaction: (many - few) / (countedMany - countedFew)}
	if unit == trace.UnitTransaction {
		out.PerPacket = out.PerTransaction / 2 // a request and its answer
	}
	return out
}
