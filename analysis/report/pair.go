package report

import (
	"fmt"
	"slices"
	"strconv"

	"hookbed/analysis/compare"
	"hookbed/analysis/runs"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// pairSection is two runs side by side, cell by cell.
type pairSection struct {
	Note  string
	Table table.Table
}

// pairData is what is drawn of it.
type pairData struct {
	Old    string     `json:"old"`
	New    string     `json:"new"`
	Margin float64    `json:"margin"` // relative
	Cells  []pairCell `json:"cells"`  // that both runs have
}

// pairCell is the ratio of the new run over the old in one cell.
type pairCell struct {
	Title string     `json:"title"`
	Arm   int        `json:"a"` // index
	N     int        `json:"n"`
	Count int        `json:"k"`           // trials of the run with fewer
	Ratio *[4]number `json:"r,omitempty"` // as in pointData
	Text  string     `json:"text"`
	Word  string     `json:"word"` // of compare
	Why   string     `json:"why,omitempty"`
}

// pairOf sets two runs against each other as `driver compare` does; nil if there are not
// two, or if they have no cell in common, as shards have not.
func pairOf(e *summary.Estimator) (*pairSection, *pairData, error) {
	if len(e.Runs) != 2 {
		return nil, nil, nil
	}
	result, err := compare.Runs(e.Runs[0], e.Runs[1], compare.Options{})
	if err != nil {
		return nil, nil, fmt.Errorf("set %s against %s: %w", e.Runs[0].Name, e.Runs[1].Name, err)
	}
	alone, err := eachAlone(e)
	if err != nil {
		return nil, nil, err
	}
	data := &pairData{Old: result.Old, New: result.New, Margin: result.Margin}
	section := &pairSection{Note: pairNote(result), Table: table.Table{Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("arm"), table.Number("N"), table.Text("metric"),
		table.Number(result.Old), table.Number(result.New), table.Text("new over old"), table.Text("verdict")}}}
	for _, c := range result.Cells {
		if c.Verdict == compare.Missing {
			continue
		}
		p, ok := pointOfCell(e, c.ID)
		if !ok {
			continue
		}
		text := table.RatioWithInterval(c.Ratio, 1-2*pairAlpha)
		data.Cells = append(data.Cells, pairCell{Title: c.Title, Arm: slices.Index(e.Lines, p.Line), N: p.N, Count: min(c.OldTrials, c.NewTrials), Ratio: fourOf(c.Ratio), Text: text, Word: c.Verdict, Why: c.Reason})
		word := c.Verdict
		if c.Reason != "" {
			word += ": " + c.Reason
		}
		old, now := medianAlone(alone[0], p, c.Metric), medianAlone(alone[1], p, c.Metric)
		sc := e.Scale(e.Units[c.Metric], summary.Medians([]summary.Summary{old, now}))
		section.Table.Rows = append(section.Table.Rows, table.Row{Cells: []string{p.Stratum.String(), p.Workload, p.Line.String(), strconv.Itoa(p.N), sc.Titled(c.Metric),
			medianText(old, sc), medianText(now, sc), text, word}})
	}
	if len(data.Cells) == 0 {
		return nil, nil, nil
	}
	return section, data, nil
}

// pairAlpha is the size of each one-sided test of compare.
const pairAlpha = 0.05

// pairNote says how to read the section.
func pairNote(r compare.Result) string {
	if r.Identical {
		return fmt.Sprintf("%s and %s have the same rows, byte for byte.", r.Old, r.New)
	}
	note := fmt.Sprintf("How many times as much %s has as %s. Same: the 90 %% interval lies within %s of 1; different: it lies outside; otherwise undecided. The rest of this report takes both runs together.", r.New, r.Old, table.Percent(r.Margin))
	if r.Note != "" {
		note += " " + r.Note
	}
	return note
}

// eachAlone are estimators of each run by itself.
func eachAlone(e *summary.Estimator) (out []*summary.Estimator, err error) {
	for _, r := range e.Runs {
		one, err := summary.New([]runs.Run{r}, summary.Options{Confidence: e.Confidence, Seed: e.Bootstrap.Seed, Resamples: e.Bootstrap.Resamples, Reference: e.Reference})
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// pointOfCell is the point that a cell belongs to.
func pointOfCell(e *summary.Estimator, id string) (summary.Point, bool) {
	for _, c := range e.Cells {
		if c.ID == id {
			return summary.Point{Stratum: e.StratumOf(c), Workload: c.Get(runs.FactorWorkload), Line: summary.Line{Arm: c.Get(runs.FactorArm), Clients: c.Clients}, N: c.Policies}, true
		}
	}
	return summary.Point{}, false
}

// medianAlone is the summary of a point in one run; without a number where it has none.
func medianAlone(e *summary.Estimator, p summary.Point, metric string) summary.Summary {
	if g := e.At(p.Stratum, p.Workload, p.Line, p.N); g != nil {
		return e.Summary(g, metric)
	}
	return summary.Summary{}
}

func medianText(s summary.Summary, sc table.Scale) string {
	if s.Median == nil {
		return table.None
	}
	return sc.Format(s.Median.Estimate)
}
