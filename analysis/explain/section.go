package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Section is what a reader of the cross should see first: a sentence and
// a small table a workload, and what they rest on folded away.
func (e *Explainer) Section(all []Explanation) table.Section {
	sec := table.Section{ID: "explain", Title: "What explains it",
		Note: e.contrast.About + " Here one thing changes a step. " +
			"Ratios are gains: ×2 is twice as fast. The gains of the steps multiply to the whole, so a step's share is its part on a logarithmic scale. " + stat.RoughNote}
	if e.Clock() == runs.ClockVirtual {
		sec.Note += " The clock is virtual: gains are in instructions, not in time."
	}
	if t := e.wholeTable(all); len(t.Rows) > 0 {
		sec.Tables = append(sec.Tables, t)
	}
	for _, x := range all {
		tables := []table.Table{e.orderTable(x), e.functionTable(x), e.contrastTable(x), e.slopeTable(x)}
		for _, t := range tables {
			if len(t.Rows) > 0 {
				sec.Tables = append(sec.Tables, t)
			}
		}
	}
	return sec
}

// Title is "TCP_RR, localhost", followed by Where.
func (x Explanation) Title() string {
	out := x.Workload + ", " + x.Scenario
	if x.Where != "" {
		out += ", " + x.Where
	}
	return out
}

// ID is a part of HTML ids and of file names, unlike that of any other explanation.
func (x Explanation) ID() string {
	return table.Slug(strings.TrimSuffix(x.Scenario+"-"+x.Workload+"-"+x.Where, "-"))
}

func (e *Explainer) orderTable(x Explanation) table.Table {
	t := table.Table{ID: "explain-" + x.ID(), Title: x.Title(), Note: x.Sentence,
		Columns: []table.Column{table.Text("steps"), table.Text("structure"), table.Text("path"), table.Text("mechanism"), table.Text("the whole"), table.Text("arms")}}
	for _, d := range x.Orders {
		if d.Empty() {
			continue
		}
		row := table.Row{Cells: []string{d.Order, e.stepCell(d, Structure), e.stepCell(d, Path), e.stepCell(d, Mechanism),
			table.RatioWithInterval(d.Total, e.Confidence), strings.Join(d.Arms, " → ")}}
		if len(d.lacking()) > 0 {
			row.Class = "failed"
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// wholeTable has the study's contrast as a whole, where the run has its ends and none
// of the arms between them.
func (e *Explainer) wholeTable(all []Explanation) table.Table {
	t := table.Table{ID: "explain-whole", Title: "The study's contrast as a whole",
		Columns: []table.Column{table.Text("workload"), table.Text("from"), table.Text("to"), table.Number("N"), table.Text("gain"), table.Text("verdict")}}
	var arms []string
	for _, x := range all {
		lacks := absent(lackingEverywhere(x.Orders))
		if len(lacks) == 0 {
			continue
		}
		d := x.Orders[0]
		arms = append(arms, lacks...)
		t.Rows = append(t.Rows, table.Row{Cells: []string{x.Title(), d.Arms[0], d.Arms[len(d.Arms)-1], strconv.Itoa(x.Policies), table.RatioWithInterval(d.Total, e.Confidence), d.Word}})
	}
	slices.Sort(arms)
	t.Note = takes(slices.Compact(arms))
	return t
}

func (e *Explainer) stepCell(d Decomposition, kind string) string {
	for _, s := range d.Steps {
		if s.Kind == kind && s.Gain != nil {
			return table.RatioWithInterval(s.Gain, e.Confidence) + ": " + table.ShareWithInterval(s.Share, e.Confidence)
		}
	}
	return table.None
}

// contrastTable lists every pair of arms that differ in one thing.
func (e *Explainer) contrastTable(x Explanation) table.Table {
	t := table.Table{ID: "contrasts-" + x.ID(), Title: "One thing at a time: " + x.Title(), Folded: true,
		Columns: []table.Column{table.Text("contrast"), table.Text("arm"), table.Text("over"), table.Number("N"), table.Text("gain"), table.Text("verdict"), table.Text("note")}}
	for _, kind := range kinds() {
		for _, c := range x.Contrasts {
			if c.Kind == kind {
				t.Rows = append(t.Rows, table.Row{Cells: []string{kind, c.What, c.OverWhat, strconv.Itoa(c.Policies), table.RatioWithInterval(c.Gain, e.Confidence), summary.WithNeed(c.Word, c.Word, c.Decides), c.Note}})
			}
		}
	}
	return t
}

// slopeTable lists what each policy costs every arm.
func (e *Explainer) slopeTable(x Explanation) table.Table {
	if len(x.Slopes) == 0 {
		return table.Table{}
	}
	sc := SlopeScale(e.Estimator, x)
	t := table.Table{ID: "slopes-" + x.ID(), Title: "What each policy costs: " + x.Title(), Folded: true,
		Note:    table.SentenceCase(x.Slopes[0].Of) + ", at the most policies against N = 0, over N.",
		Columns: []table.Column{table.Text("arm"), table.Text("what"), table.Number("N"), table.Number(sc.Titled("each policy")), table.Text("interval"), table.Text("verdict")}}
	for _, s := range x.Slopes {
		t.Rows = append(t.Rows, table.Row{Cells: []string{s.Arm, s.What, strconv.Itoa(s.Policies), table.Signed(sc, s.Each.Estimate), table.Interval(s.Each, sc, e.Confidence), s.word()}})
	}
	return t
}

// SlopeScale is that of all slopes of an explanation, which has at least one.
func SlopeScale(e *summary.Estimator, x Explanation) table.Scale {
	var values []float64
	for _, s := range x.Slopes {
		values = append(values, s.Each.Estimate)
	}
	return e.Scale(x.Slopes[0].Unit, values)
}

// word says whether what policies cost is distinguishable from nothing.
func (s Slope) word() string {
	switch {
	case s.Each.Confidence == 0:
		return "no interval"
	case !s.Each.Excludes(0):
		return "not distinguishable from 0"
	case s.Each.Estimate < 0:
		return fmt.Sprintf("faster at N = %d", s.Policies)
	}
	return "grows"
}
