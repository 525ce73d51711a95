package tracing

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"

	"hookbed/analysis/figure"
	"hookbed/analysis/runs"
	"hookbed/analysis/trace"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// Line is what one trace says, next to what the clock and the row of its trial say.
type Line struct {
	Cell     string `json:"cell"`
	Arm      string `json:"arm"`
	Policies int    `json:"policies"`
	Scenario string `json:"scenario"`
	Workload string `json:"workload"`
	// Boot is the kernel, where several are compared.
	Boot string `json:"boot,omitempty"`

	Unit  string  `json:"unit"`
	Units float64 `json:"units"`
	// Instructions per unit: of whole units; of all that the client's own figures cover, which has the
	// beginning and the end of its connection, 0 where the trace does not say; and of the trial's row,
	// nil if it has none. The last two are two accounts of one thing.
	PerUnit float64  `json:"instructions_per_unit"`
	Client  float64  `json:"client_instructions_per_unit"`
	Row     *float64 `json:"row_instructions_per_unit"`
	// Instructions of the whole window: counted, and by the guest's clock less its halts.
	Counted   uint64 `json:"window_instructions"`
	Clock     uint64 `json:"clock_instructions"`
	Misrooted uint64 `json:"misrooted_instructions"`
	Dir       string `json:"dir"`

	Drop *trace.Drop `json:"drop,omitempty"` // where a refused packet ends
}

// Summarise reads the traces of a run and its rows, in the order of the plan.
func Summarise(dir *rundir.Dir) ([]Line, error) {
	all, err := trace.Read(dir.Path())
	if err != nil {
		return nil, err
	}
	rows, err := instructionRows(dir)
	if err != nil {
		return nil, err
	}
	var out []Line
	for _, cell := range dir.Plan().Cells {
		i := slices.IndexFunc(all, func(t trace.Trace) bool { return t.Cell == cell.ID })
		if i < 0 {
			continue
		}
		l := line(dir, cell, all[i])
		if v, ok := rows[cell.ID]; ok {
			l.Row = &v
		}
		out = append(out, l)
	}
	return out, nil
}

func line(dir *rundir.Dir, cell plan.Cell, t trace.Trace) Line {
	w := t.Window
	l := Line{
		Cell: cell.ID, Arm: cell.Get(plan.FactorArm), Policies: cell.Int(plan.FactorPolicies),
		Scenario: cell.Get(plan.FactorScenario), Workload: cell.Get(plan.FactorWorkload),
		Unit: t.Unit, Units: t.Units, PerUnit: t.PerUnit(w.Measured),
		Counted: w.Instructions, Misrooted: w.Misrooted, Drop: t.Drop, Dir: filepath.Join(dir.Path(), trace.Dir, cell.ID),
	}
	if t.Client.Units > 0 {
		l.Client = float64(t.Client.Instructions) / t.Client.Units
	}
	if w.NSPerInstruction > 0 {
		l.Clock = (w.ClockNS - w.IdleNS) / w.NSPerInstruction
	}
	if len(dir.Plan().Spec.Kernels) > 0 {
		l.Boot = cell.Get(plan.FactorKernel)
	}
	return l
}

// instructionRows are the instructions per unit of the rows, by cell.
func instructionRows(dir *rundir.Dir) (map[string]float64, error) {
	loaded, err := runs.Load(dir.Path())
	if err != nil {
		return nil, err
	}
	words := dir.Plan().Words()
	out := map[string]float64{}
	for _, t := range loaded[0].Trials {
		w, _ := words.Workload(t.Factors[plan.FactorWorkload])
		if v, ok := t.Value(w.Work.Instructions); ok && t.OK() {
			out[t.Cell] = v
		}
	}
	return out, nil
}

// Print writes a table for each scenario and workload.
func Print(w io.Writer, lines []Line) {
	type group struct{ scenario, workload, boot string }
	var order []group
	in := map[group][]Line{}
	for _, l := range lines {
		g := group{l.Scenario, l.Workload, l.Boot}
		if in[g] == nil {
			order = append(order, g)
		}
		in[g] = append(in[g], l)
	}
	for _, g := range order {
		title := g.scenario + ", " + g.workload
		if g.boot != "" {
			title += ", kernel " + g.boot
		}
		fmt.Fprintf(w, "%s: instructions a %s\n", title, in[g][0].Unit)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprint(tw, "  arm\tN\twhole units\tin the row's time\tits row\tdiffers\twindow, counted\tby the clock\tmisrooted\tfiles\n")
		for _, l := range in[g] {
			client, row, differs := "-", "-", "-"
			if l.Client > 0 {
				client = strconv.FormatFloat(l.Client, 'f', 1, 64)
			}
			if l.Row != nil {
				row = strconv.FormatFloat(*l.Row, 'f', 1, 64)
			}
			if l.Row != nil && l.Client > 0 {
				differs = fmt.Sprintf("%+.3f %%", 100*(*l.Row/l.Client-1))
			}
			fmt.Fprintf(tw, "  %s\t%d\t%.1f\t%s\t%s\t%s\t%d\t%d\t%.3f %%\t%s\n", l.Arm, l.Policies, l.PerUnit, client, row, differs,
				l.Counted, l.Clock, 100*float64(l.Misrooted)/float64(max(l.Counted, 1)), l.Dir)
		}
		_ = tw.Flush()
	}
}

// PrintDrops writes where refused packets end, a line for each cell of which that was traced.
func PrintDrops(w io.Writer, lines []Line) {
	lines = slices.DeleteFunc(slices.Clone(lines), func(l Line) bool { return l.Drop == nil })
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "a refused packet: instructions until it is freed")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "  scenario\tarm\tN\tfrom the system call\tfrom the wire\tends at\tgiven up by\treason\ton this path\n")
	for _, l := range lines {
		d, scenario := l.Drop, l.Scenario
		if l.Boot != "" {
			scenario += ", kernel " + l.Boot
		}
		fmt.Fprintf(tw, "  %s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d of %d\n", scenario, l.Arm, l.Policies, d.ToDrop, d.FromWire, d.Where(), d.Function, d.Why(), d.Same, d.Compared)
	}
	_ = tw.Flush()
}

// Compare writes what all traces of a run are compared by: the layers of all, and the difference of
// each arm from the one of the plan that others are compared with, in all that both have alike.
func Compare(dir *rundir.Dir) error {
	all, err := trace.Read(dir.Path())
	if err != nil || len(all) == 0 {
		return err
	}
	byCell := map[string]*trace.Trace{}
	for i := range all {
		byCell[all[i].Cell] = &all[i]
	}
	p := dir.Plan()
	for _, cell := range p.Cells {
		other, ok := p.Counterpart(cell, p.Spec.Traced.Against)
		if !ok || other.ID == cell.ID || byCell[cell.ID] == nil || byCell[other.ID] == nil {
			continue
		}
		if err := trace.WriteDiff(dir.Path(), byCell[cell.ID], byCell[other.ID]); err != nil {
			return err
		}
	}
	return trace.WriteRun(dir.Path(), all, figure.AllLayers(all))
}
