package report

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
	"hookbed/analysis/trace"
)

// Traced is what the trace of one cell says.
type Traced struct {
	Cell     string       `json:"cell"`
	Scenario string       `json:"scenario"` // name of the stratum
	Workload string       `json:"workload"`
	Arm      string       `json:"arm"`
	Policies int          `json:"policies"`
	Seed     int          `json:"seed"`
	Unit     string       `json:"unit"`
	Units    float64      `json:"units"`
	PerUnit  float64      `json:"instructions_per_unit"`
	ByRow    *float64     `json:"instructions_per_unit_by_row"`    // of the untraced trial with the same seed
	ByClient *float64     `json:"instructions_per_unit_by_client"` // over the time by which the client computes its figures
	Exact    bool         `json:"exact"`                           // the clock agrees, to the instruction
	Window   trace.Window `json:"window"`
	Same     int          `json:"same_path"` // units that took the path in path.md
	Compared int          `json:"compared_units"`
	Paths    int          `json:"paths"`
	Layers   []LayerShare `json:"layers"`
	Against  *TraceDiff   `json:"against,omitempty"` // the reference
	Flame    string       `json:"flame"`             // files, from the report's directory
	Path     string       `json:"path"`
	// Drop is where a packet ends that the policies refuse, and DropPath the file with its way.
	Drop     *trace.Drop `json:"drop,omitempty"`
	DropPath string      `json:"drop_path,omitempty"`
}

// LayerShare is what a layer costs per unit.
type LayerShare struct {
	Layer   trace.Layer `json:"layer"`
	PerUnit float64     `json:"instructions_per_unit"`
	Share   float64     `json:"share"`
}

// TraceDiff is how a cell differs from the reference's, in instructions per unit.
type TraceDiff struct {
	Arm       string           `json:"arm"`
	Policies  int              `json:"policies"`
	More      float64          `json:"instructions_more"`
	Layers    []LayerShare     `json:"layers"`    // by how much each is dearer, and its part of the difference; the largest part first
	Functions []FunctionChange `json:"functions"` // the largest changes in the difference's direction
	Flame     string           `json:"flame,omitempty"`
	Sentence  string           `json:"sentence"`
}

// FunctionChange is a function's part in a difference.
type FunctionChange struct {
	Function string  `json:"function"`
	More     float64 `json:"instructions_more"` // of the function itself, per unit
	Share    float64 `json:"share"`             // of the difference
	Calls    float64 `json:"calls"`             // per unit
	Before   float64 `json:"calls_of_reference"`
}

// traced is a trace with its place in the report.
type traced struct {
	Traced
	trace   trace.Trace
	stratum summary.Stratum
	ref     *traced
	dir     string // of its run
	base    string // the same, from the report's directory
}

// traceSet is all traces of a part of the report, in the order of its tables.
type traceSet struct {
	e   *summary.Estimator
	all []*traced
}

// readTraces reads the traces of all runs of a part.
func readTraces(e *summary.Estimator, outDir string) (traceSet, error) {
	set := traceSet{e: e}
	for _, r := range e.Runs {
		list, err := trace.Read(r.Dir)
		if err != nil {
			return traceSet{}, err
		}
		if len(list) == 0 {
			continue
		}
		base, err := relative(outDir, r.Dir)
		if err != nil {
			return traceSet{}, err
		}
		for _, t := range list {
			one, err := set.place(t, r.Dir, base)
			if err != nil {
				return traceSet{}, err
			}
			set.all = append(set.all, one)
		}
	}
	set.order()
	for _, t := range set.all {
		t.ref = set.reference(t)
	}
	for _, t := range set.all {
		if t.ref != nil {
			t.Against = set.against(t)
		}
	}
	return set, nil
}

// relative is the way from one directory to another, as a link has it.
func relative(from, to string) (string, error) {
	a, err := filepath.Abs(from)
	if err != nil {
		return "", fmt.Errorf("link to traces: %w", err)
	}
	b, err := filepath.Abs(to)
	if err != nil {
		return "", fmt.Errorf("link to traces: %w", err)
	}
	return filepath.Rel(a, b)
}

// link is a file of a run as a relative URL.
func (t *traced) link(file string) string {
	return (&url.URL{Path: filepath.ToSlash(filepath.Join(t.base, file))}).String()
}

// place finds the cell of a trace.
func (s traceSet) place(t trace.Trace, dir, base string) (*traced, error) {
	i := slices.IndexFunc(s.e.Cells, func(c *runs.Cell) bool { return c.ID == t.Cell })
	if i < 0 {
		return nil, fmt.Errorf("read traces: %s has no cell %s; remove its directory below %s", filepath.Join(dir, runs.PlanFile), t.Cell, filepath.Join(dir, trace.Dir))
	}
	c, w, p := s.e.Cells[i], t.Window, t.Path
	one := &traced{trace: t, stratum: s.e.StratumOf(c), dir: dir, base: base}
	one.Traced = Traced{Cell: t.Cell, Scenario: one.stratum.String(), Workload: c.Get(runs.FactorWorkload), Arm: c.Get(runs.FactorArm), Policies: c.Policies, Seed: t.Seed,
		Unit: t.Unit, Units: t.Units, PerUnit: t.PerUnit(w.Measured), ByRow: s.byRow(c, t.Seed), Exact: w.Exact(), Window: w, Same: p.Same, Compared: p.Units, Paths: p.Paths}
	one.Flame, one.Path = one.link(filepath.Join(trace.Dir, t.Cell, trace.FlameFile)), one.link(filepath.Join(trace.Dir, t.Cell, trace.PathFile))
	if t.Drop != nil {
		one.Drop, one.DropPath = t.Drop, one.link(filepath.Join(trace.Dir, t.Cell, trace.DropFile))
	}
	if t.Client.Units > 0 {
		v := float64(t.Client.Instructions) / t.Client.Units
		one.ByClient = &v
	}
	for _, l := range t.Measured.LayerCosts() {
		v := t.PerUnit(l.Self)
		one.Layers = append(one.Layers, LayerShare{l.Layer, v, v / one.PerUnit})
	}
	one.Layers = orEmpty(one.Layers)
	return one, nil
}

// byRow is what the rows of the cell say, of the trace's seed.
func (s traceSet) byRow(c *runs.Cell, seed int) *float64 {
	w, _ := s.e.Words.Workload(c.Get(runs.FactorWorkload))
	var values []float64
	for _, t := range c.Trials {
		if v, ok := t.Value(w.Work.Instructions); ok && t.OK() && t.Seed == strconv.Itoa(seed) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return nil
	}
	v := stat.Median(values)
	return &v
}

// order sorts traces as tables have them: by stratum, workload, arm and number of policies.
func (s traceSet) order() {
	rank := func(t *traced) []int {
		return []int{slices.Index(s.e.Strata, t.stratum), slices.Index(s.e.Workloads, t.Workload), slices.IndexFunc(s.e.Lines, func(l summary.Line) bool { return l.Arm == t.Arm }), t.Policies}
	}
	slices.SortStableFunc(s.all, func(a, b *traced) int { return slices.Compare(rank(a), rank(b)) })
}

// reference is the trace that another is compared with: the reference arm's at the same number of
// policies, or at 0. nil for the reference itself.
func (s traceSet) reference(t *traced) *traced {
	if s.e.Reference == "" || t.Arm == s.e.Reference {
		return nil
	}
	var zero *traced
	for _, r := range s.all {
		if r.Arm != s.e.Reference || r.stratum != t.stratum || r.Workload != t.Workload || r.Unit != t.Unit {
			continue
		}
		if r.Policies == t.Policies {
			return r
		}
		if r.Policies == 0 && zero == nil {
			zero = r
		}
	}
	return zero
}

// Functions of a difference that are listed, and that a sentence names.
const (
	changesListed = 8
	changesSaid   = 3
	changeLeast   = 0.1 // of the difference, to be said
)

// against compares a trace with its reference.
func (s traceSet) against(t *traced) *TraceDiff {
	d := &TraceDiff{Arm: t.ref.Arm, Policies: t.ref.Policies, More: t.PerUnit - t.ref.PerUnit, Functions: []FunctionChange{}}
	for _, f := range trace.Compare(&t.trace, &t.ref.trace) {
		if len(d.Functions) < changesListed && f.More() != 0 && f.More() > 0 == (d.More > 0) {
			d.Functions = append(d.Functions, FunctionChange{f.Name, f.More(), f.More() / d.More, f.Calls, f.CallsOf})
		}
	}
	d.Layers = t.layerChanges(d.More)
	if file, ok := trace.FindDiff(t.dir, &t.trace, &t.ref.trace, ".svg"); ok && t.dir == t.ref.dir {
		d.Flame = t.link(file)
	}
	d.Sentence = t.sentence(d)
	return d
}

// layerChanges are the layers that cost something else than in the reference.
func (t *traced) layerChanges(more float64) []LayerShare {
	out := []LayerShare{}
	for _, l := range trace.Layers() {
		if v := t.layer(l).PerUnit - t.ref.layer(l).PerUnit; v != 0 && more != 0 {
			out = append(out, LayerShare{l, v, v / more})
		}
	}
	slices.SortStableFunc(out, func(a, b LayerShare) int { return cmp.Compare(b.Share, a.Share) })
	return out
}

// sentence says a difference in words.
func (t *traced) sentence(d *TraceDiff) string {
	head := fmt.Sprintf("%s at N = %d executes %s instructions a %s", t.Arm, t.Policies, rounded(t.PerUnit), t.Unit)
	ref := d.Arm
	if d.Policies != t.Policies {
		ref += fmt.Sprintf(" at N = %d", d.Policies)
	}
	if math.Abs(d.More) < 0.5 {
		return head + ", as many as " + ref + "."
	}
	word := "more"
	if d.More < 0 {
		word = "fewer"
	}
	return head + fmt.Sprintf(", %s %s than %s%s.", rounded(math.Abs(d.More)), word, ref, t.made(d))
}

// made says what makes a difference: functions where one makes most of it, else layers and the
// function that makes most.
func (t *traced) made(d *TraceDiff) string {
	var parts []string
	of := func() string {
		if len(parts) == 0 {
			return " of them"
		}
		return ""
	}
	if len(d.Functions) > 0 && d.Functions[0].Share >= 0.5 {
		for _, f := range d.Functions {
			if f.Share >= changeLeast && len(parts) < changesSaid {
				parts = append(parts, fmt.Sprintf("%s%s in %s, %s", table.Percent(f.Share), of(), f.Function, f.called(t.Arm, d.Arm, t.Unit)))
			}
		}
		return ": " + strings.Join(parts, "; ")
	}
	for _, l := range d.Layers {
		if l.Share >= changeLeast && len(parts) < changesSaid {
			parts = append(parts, fmt.Sprintf("%s%s in %s", table.Percent(l.Share), of(), l.Layer))
		}
	}
	out := ""
	if len(parts) > 0 {
		out = ": " + strings.Join(parts, ", ")
	}
	if len(d.Functions) > 0 {
		f := d.Functions[0]
		out += fmt.Sprintf("; the most in one function is %s in %s, %s", table.Percent(f.Share), f.Function, f.called(t.Arm, d.Arm, t.Unit))
	}
	return out
}

// called says how often the function is called, and how often in the reference where that differs.
func (f FunctionChange) called(arm, ref, unit string) string {
	now, before := times(f.Calls), times(f.Before)
	switch {
	case f.Calls == 0:
		return fmt.Sprintf("which %s calls %s times a %s and %s never", ref, before, unit, arm)
	case now == before || f.Before == 0:
		return fmt.Sprintf("called %s times a %s", now, unit)
	}
	return fmt.Sprintf("called %s times a %s, not %s", now, unit, before)
}

// times is a number of calls with at most two decimals.
func times(v float64) string { return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) }

// rounded writes instructions with a space between thousands.
func rounded(v float64) string {
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return digits
}

func (s traceSet) summaries() []Traced {
	var out []Traced
	for _, t := range s.all {
		out = append(out, t.Traced)
	}
	return out
}

// plain are the traces for figures, under the arms' and strata's names of the report.
func (s traceSet) plain() []trace.Trace {
	var out []trace.Trace
	for _, t := range s.all {
		out = append(out, t.trace)
	}
	return out
}

// byCell are the traces by cell; of several runs with one cell, the first.
func (s traceSet) byCell() map[string]*trace.Trace {
	out := map[string]*trace.Trace{}
	for _, t := range s.all {
		if out[t.Cell] == nil {
			out[t.Cell] = &t.trace
		}
	}
	return out
}

// groups splits traces by stratum and workload.
func (s traceSet) groups() [][]*traced {
	var out [][]*traced
	for _, t := range s.all {
		if k := len(out) - 1; k >= 0 && out[k][0].stratum == t.stratum && out[k][0].Workload == t.Workload {
			out[k] = append(out[k], t)
			continue
		}
		out = append(out, []*traced{t})
	}
	return out
}

// section is "Where the instructions go".
func (s traceSet) section() table.Section {
	sec := table.Section{ID: "instructions", Title: "Where the instructions go",
		Note: "Each of these cells was booted with every instruction traced: the kernel and both programs, of whole units of work. " +
			"An instruction is of the layer of its function or, where that is called from many places, of the innermost caller that has a layer. " + s.exactness()}
	for _, g := range s.groups() {
		sec.Tables = append(sec.Tables, layerTable(g), traceTable(g))
		if t := diffTable(g); len(t.Rows) > 0 {
			sec.Tables = append(sec.Tables, t)
		}
	}
	return sec
}

// exactness says whether the clock agrees with the traces.
func (s traceSet) exactness() string {
	var off []string
	var clocks uint64
	for _, t := range s.all {
		clocks += t.Window.Clocks
		if !t.Exact {
			off = append(off, fmt.Sprintf("%s (by %d ns in all, and at %d of %d readings)", t.trace.Title(), t.Window.Off(), t.Window.ClocksOff, t.Window.Clocks))
		}
	}
	if len(off) > 0 {
		return "The clock does not agree with the instructions of " + table.List(off) + "."
	}
	return fmt.Sprintf("The clock advanced by as many instructions as were traced, halts left out, to the instruction: in %s, and between any two of %s readings.", table.Plural(len(s.all), "trace"), rounded(float64(clocks)))
}

// layerLeast is from which share of any cell on a layer has a column.
const layerLeast = 0.01

// titleOfGroup is "TCP_RR, localhost".
func titleOfGroup(g []*traced) string { return g[0].Workload + ", " + g[0].Scenario }

// layerTable has the layers of a group, and its three largest differences in words.
func layerTable(g []*traced) table.Table {
	t := table.Table{ID: table.Slug("layers-" + titleOfGroup(g)), Title: "Instructions a " + g[0].Unit + " by layer: " + titleOfGroup(g), Points: largest(g),
		Columns: []table.Column{table.Text("arm"), table.Number("N"), table.Number("in all")}}
	var shown []trace.Layer
	rest := false
	for _, l := range trace.Layers() {
		most := 0.0
		for _, x := range g {
			most = max(most, x.layer(l).Share)
		}
		switch {
		case most >= layerLeast || l == trace.LayerOther && most > 0:
			shown, t.Columns = append(shown, l), append(t.Columns, table.Number(string(l)))
		case most > 0:
			rest = true
		}
	}
	if rest {
		t.Columns = append(t.Columns, table.Number("the rest"))
	}
	for _, x := range g {
		row, left := table.Row{Cells: []string{x.Arm, strconv.Itoa(x.Policies), rounded(x.PerUnit)}}, x.PerUnit
		for _, l := range shown {
			v := x.layer(l).PerUnit
			row.Cells, left = append(row.Cells, rounded(v)), left-v
		}
		if rest {
			row.Cells = append(row.Cells, rounded(max(0, left)))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (t *traced) layer(l trace.Layer) LayerShare {
	for _, x := range t.Layers {
		if x.Layer == l {
			return x
		}
	}
	return LayerShare{Layer: l}
}

// largest are the three largest differences from the reference, a sentence each. Of an arm it is
// the one at the most policies.
func largest(g []*traced) []string {
	var with []*traced
	for _, t := range g {
		if t.Against == nil {
			continue
		}
		if k := len(with) - 1; k >= 0 && with[k].Arm == t.Arm {
			with[k] = t // they are sorted by the number of policies
			continue
		}
		with = append(with, t)
	}
	slices.SortStableFunc(with, func(a, b *traced) int { return cmp.Compare(math.Abs(b.Against.More), math.Abs(a.Against.More)) })
	var out []string
	for _, t := range with[:min(3, len(with))] {
		out = append(out, t.Against.Sentence)
	}
	return out
}

// traceTable has each trace with its files and how exact it is.
func traceTable(g []*traced) table.Table {
	t := table.Table{ID: table.Slug("traces-" + titleOfGroup(g)), Title: "The traces: " + titleOfGroup(g),
		Note: fmt.Sprintf("By trace: of whole %ss. By client: over the time of the row, which is the client's with connecting and closing, or for a stream the server's. By row: of the trial with the same seed; both must agree. "+
			"Without a root: share of instructions whose stack does not begin at an entry to the kernel.", g[0].Unit),
		Columns: []table.Column{table.Text("arm"), table.Number("N"), table.Number("by trace"), table.Number("by client"), table.Number("by row"), table.Number("traced in all"), table.Number("by the clock"), table.Number("without a root"),
			table.Text("on the path"), table.Text("path"), table.Text("flame graph"), table.Text("against the reference")}}
	for _, x := range g {
		w, diff := x.Window, table.None
		row := table.Row{Links: make([]string, len(t.Columns))}
		if x.Against != nil {
			diff = fmt.Sprintf("%s, N = %d: %s", x.Against.Arm, x.Against.Policies, signedRounded(x.Against.More))
			row.Links[11] = x.Against.Flame
		}
		row.Cells = []string{x.Arm, strconv.Itoa(x.Policies), rounded(x.PerUnit), optional(x.ByClient), optional(x.ByRow), rounded(float64(w.Instructions)), clockOf(w), table.Percent(float64(w.Misrooted) / float64(max(1, w.Instructions))),
			fmt.Sprintf("%d of %d", x.Same, x.Compared), "path", "flame", diff}
		row.Links[9], row.Links[10] = x.Path, x.Flame
		t.Rows = append(t.Rows, row)
	}
	return t
}

// optional is a number with one decimal, as the two that must agree have it.
func optional(v *float64) string {
	if v == nil {
		return table.None
	}
	return strconv.FormatFloat(*v, 'f', 1, 64)
}

// clockOf is how many instructions the clock advanced by.
func clockOf(w trace.Window) string {
	if w.NSPerInstruction == 0 || w.ClockNS < w.IdleNS {
		return table.None
	}
	return rounded(float64(w.ClockNS-w.IdleNS) / float64(w.NSPerInstruction))
}

func signedRounded(v float64) string {
	if v < 0 {
		return "−" + rounded(-v)
	}
	return "+" + rounded(v)
}

// diffTable lists differences that were written between other pairs than with the reference.
func diffTable(g []*traced) table.Table {
	t := table.Table{ID: table.Slug("differences-" + titleOfGroup(g)), Title: "Other differences: " + titleOfGroup(g),
		Columns: []table.Column{table.Text("arm"), table.Number("N"), table.Text("against"), table.Number("N"), table.Number("instructions more"), table.Text("flame graph")}}
	for _, a := range g {
		for _, b := range g {
			file, ok := trace.FindDiff(a.dir, &a.trace, &b.trace, ".svg")
			if !ok || a == b || a.ref == b || a.dir != b.dir {
				continue
			}
			t.Rows = append(t.Rows, table.Row{Cells: []string{a.Arm, strconv.Itoa(a.Policies), b.Arm, strconv.Itoa(b.Policies), signedRounded(a.PerUnit - b.PerUnit), "difference"}, Links: []string{"", "", "", "", "", a.link(file)}})
		}
	}
	return t
}
