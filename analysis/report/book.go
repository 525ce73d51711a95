package report

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/claims"
	"hookbed/analysis/runs"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// book is a report: one part for each clock.
type book struct {
	Document
	parts []content
}

// part describes the numbers of one clock.
type part struct {
	Name          string // in links and files, "" for the only part
	Title         string
	Note          string // what the numbers are worth
	demonstration bool   // too few trials for a measurement
}

// bind composes a part for each clock that runs have, the exact one first, for a report in outDir.
func bind(all []runs.Run, outDir string, opt Options) (book, error) {
	var b book
	for _, of := range runs.ByClock(all) {
		e, err := summary.New(of, summary.Options{Confidence: opt.Confidence, Seed: opt.Seed, Resamples: opt.Resamples, Reference: opt.Reference})
		if err != nil {
			return book{}, err
		}
		c, err := compose(e, outDir, opt.Title)
		if err != nil {
			return book{}, err
		}
		b.parts = append(b.parts, c)
	}
	if len(b.parts) == 1 {
		b.parts[0].part.Name = ""
		b.Document = b.parts[0].Document
		return b, nil
	}
	b.Document = Document{Schema: Schema, Title: opt.Title, Verdicts: []summary.Verdict{}, Warnings: []string{}, Problems: []Problem{},
		Summaries: []summary.Summary{}, Claims: []claims.Verdict{}, Costs: []Cost{}, Accelerators: []string{}, Environment: map[string]map[string]string{}}
	var titles []string
	for i := range b.parts {
		c := &b.parts[i]
		c.rename()
		titles = append(titles, strings.TrimPrefix(c.Title, titlePrefix))
		b.Answers, b.Runs = append(b.Answers, c.Answers...), append(b.Runs, c.Runs...)
		c.Answers = []Answer{} // the report begins with them
		b.Parts = append(b.Parts, c.Document)
	}
	if b.Title == "" {
		b.Title = titlePrefix + strings.Join(titles, " + ")
	}
	return b, nil
}

// rename keeps what a part links to apart from the other part's.
func (c *content) rename() {
	in := func(name *string) { *name = c.part.Name + "-" + *name }
	for i := range c.figures {
		in(&c.figures[i].Name)
	}
	for i := range c.bars {
		in(&c.bars[i].Name)
	}
	for _, sections := range [][]table.Section{c.explain, c.sections} {
		for i := range sections {
			in(&sections[i].ID)
		}
	}
}

// minDirections is the number of trials from which on the interval between the
// extremes encloses the median with 95 % confidence.
const minDirections = 6

// demonstration ends the title of a part that is no measurement.
const demonstration = ": a demonstration"

// partOf describes the numbers of the estimator's clock.
func partOf(e *summary.Estimator) part {
	if e.Clock() == runs.ClockVirtual {
		return part{Name: "virtual", Title: "In virtual time: exact", Note: "The clock counts instructions. Every computer, busy or idle, gives these numbers to the last digit; " +
			"they know nothing of caches and parallelism."}
	}
	p := part{Name: "wall", Title: "On the wall clock", Note: "Time as it passed on one computer, with all that disturbed it."}
	if most := mostTrials(e); most < minDirections {
		p.Title, p.demonstration = p.Title+demonstration, true
		p.Note = fmt.Sprintf("It shows that every arm that gave a number was applied, enforced and measured for real. With %s a cell it is no measurement: "+
			"no direction is given whose interval has less than %s confidence, and %d trials would be the least.", table.Plural(most, "trial"), table.Percent(e.Confidence), minDirections)
	}
	return p
}

// mostTrials is the largest number of usable trials of any cell.
func mostTrials(e *summary.Estimator) int {
	most := 0
	for _, g := range e.All() {
		n := 0
		for _, t := range g.Trials {
			if t.OK() {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// result is what Make returns, without the files.
func (b book) result() Result {
	res := Result{Answers: b.Answers}
	for _, c := range b.parts {
		for _, w := range c.Warnings {
			if len(b.parts) > 1 {
				w = c.part.Title + ": " + w
			}
			res.Warnings = append(res.Warnings, w)
		}
	}
	return res
}

// outFile is a file of the report, its name relative to the report's directory.
type outFile struct {
	name string
	data []byte
}

func (b book) render() ([]outFile, error) {
	page, err := htmlPage(b)
	if err != nil {
		return nil, err
	}
	doc, err := json.MarshalIndent(b.Document, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode report.json: %w", err)
	}
	files := []outFile{{"report.md", markdown(b)}, {"report.html", page}, {"report.json", append(doc, '\n')}}
	for _, c := range b.parts {
		for _, f := range slices.Concat(c.figures, c.bars) {
			files = append(files, outFile{filepath.Join("figures", f.Name+".svg"), f.SVG}, outFile{filepath.Join("figures", f.Name+".csv"), f.CSV})
		}
	}
	return files, nil
}

// several reports whether the report has parts.
func (b book) several() bool { return len(b.parts) > 1 }
