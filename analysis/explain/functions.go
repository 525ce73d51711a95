package explain

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/runs"
	"hookbed/analysis/table"
	"hookbed/analysis/trace"
)

// TracedChange is a change of one thing by function, from the traces of both cells. Numbers are
// instructions per unit of work of the trace's own unit and seed.
type TracedChange struct {
	Unit string  `json:"unit"`
	From float64 `json:"from"`
	To   float64 `json:"to"`
	// Functions are those whose own instructions change most, the largest part of the change first;
	// those that work against it have a share below 0.
	Functions []FunctionShare `json:"functions"`
}

// FunctionShare is a function's part in a change.
type FunctionShare struct {
	Function string  `json:"function"`
	More     float64 `json:"instructions_more"` // in the second cell, of the function itself
	Share    float64 `json:"share"`             // of the whole change
}

// More is the whole change.
func (c TracedChange) More() float64 { return c.To - c.From }

// functionsListed is how many functions of a change are listed, by the size of their part.
const functionsListed = 10

// traced compares the traces of two cells, nil where one of them has none or they have not one
// unit.
func (e *Explainer) traced(from, to *runs.Cell) *TracedChange {
	if from == nil || to == nil {
		return nil
	}
	a, b := e.Traces[from.ID], e.Traces[to.ID]
	if a == nil || b == nil || a.Unit != b.Unit {
		return nil
	}
	out := &TracedChange{Unit: a.Unit, From: a.PerUnit(a.Window.Measured), To: b.PerUnit(b.Window.Measured), Functions: []FunctionShare{}}
	for _, d := range trace.Compare(b, a) { // the largest change first
		if len(out.Functions) == functionsListed || d.More() == 0 {
			break
		}
		f := FunctionShare{Function: d.Name, More: d.More()}
		if out.More() != 0 {
			f.Share = f.More / out.More()
		}
		out.Functions = append(out.Functions, f)
	}
	slices.SortStableFunc(out.Functions, func(x, y FunctionShare) int {
		switch {
		case x.Share > y.Share:
			return -1
		case x.Share < y.Share:
			return 1
		}
		return 0
	})
	return out
}

// functionsSaid is how many functions a line of the table names.
const functionsSaid = 4

// functionTable says which functions make the steps of the study's contrast and the contrasts of
// two arms, where both ends have a trace.
func (e *Explainer) functionTable(x Explanation) table.Table {
	t := table.Table{ID: "functions-" + x.ID(), Title: "Which functions make it: " + x.Title(),
		Note:    "From the traces of both ends. A share is the part of the function's own instructions in the whole change; below 0 it works against it.",
		Columns: []table.Column{table.Text("term"), table.Text("from"), table.Text("to"), table.Number("N"), table.Number("instructions"), table.Number("change"), table.Text("functions")}}
	seen := map[string]bool{}
	add := func(kind, from, to string, n int, c *TracedChange) {
		key := strings.Join([]string{kind, from, to, strconv.Itoa(n)}, "\x00")
		if c == nil || seen[key] {
			return
		}
		seen[key] = true
		t.Rows = append(t.Rows, table.Row{Cells: []string{kind, from, to, strconv.Itoa(n), whole(c.From) + " → " + whole(c.To), signed(c.More()), c.text()}})
	}
	for _, d := range x.Orders {
		for i, s := range d.Steps {
			add(s.Kind, d.Arms[i], d.Arms[i+1], x.Policies, s.Traced)
		}
	}
	for _, kind := range kinds() {
		for _, c := range x.Contrasts {
			if c.Kind == kind {
				add(kind, c.OverWhat, c.What, c.Policies, c.Traced)
			}
		}
	}
	return t
}

// text names the functions with the largest parts.
func (c TracedChange) text() string {
	if math.Abs(c.More()) < 0.5 {
		return "no change"
	}
	byPart := slices.Clone(c.Functions)
	slices.SortStableFunc(byPart, func(a, b FunctionShare) int {
		switch x, y := math.Abs(a.More), math.Abs(b.More); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	var parts []string
	for _, f := range byPart[:min(functionsSaid, len(byPart))] {
		parts = append(parts, fmt.Sprintf("%s %s (%s)", f.Function, signed(f.More), table.Signed(table.Scale{Divisor: 0.01}, f.Share)+" %"))
	}
	return strings.Join(parts, ", ")
}

func whole(v float64) string { return strconv.FormatFloat(math.Round(v), 'f', 0, 64) }

// signed is a change with its sign.
func signed(v float64) string {
	if math.Round(v) < 0 {
		return "−" + whole(-v)
	}
	return "+" + whole(v)
}
