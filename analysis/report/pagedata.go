package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// pageData is what the page's script draws, and the schema of its JSON. Everything that
// judges or estimates is done here: the script shows texts and places numbers.
type pageData struct {
	Schema int        `json:"schema"`
	Parts  []partData `json:"parts"`
}

// dataSchema is the version of pageData.
const dataSchema = 1

// partData is what is drawn of one clock.
type partData struct {
	ID         string        `json:"id"`    // prefix of its elements without "-", "" for the only part
	Clock      string        `json:"clock"` // "" if not known
	Confidence float64       `json:"confidence"`
	Estimator  string        `json:"estimator"` // "median"
	Reference  string        `json:"reference"` // arm, "" for none
	Arms       []armData     `json:"arms"`
	Strata     []stratumData `json:"strata"`
	Measures   []measureData `json:"measures"`
	Views      []viewData    `json:"views"`
	First      int           `json:"first"` // index of the view that is shown first
	Pair       *pairData     `json:"pair,omitempty"`
}

// armData is a line of the report: an arm with a number of clients.
type armData struct {
	Name      string `json:"name"`
	Clients   int    `json:"clients"`
	Structure string `json:"structure"` // of catalog, "other" if not known
	Mechanism string `json:"mechanism"` // of catalog, "none" without any
	Fabric    string `json:"fabric"`
	Filter    string `json:"filter"`
	Bare      bool   `json:"bare,omitempty"` // it has no policies, and is drawn as a reference
}

// stratumData is a stratum with its level of every factor that is compared.
type stratumData struct {
	Name     string            `json:"name"`
	Levels   map[string]string `json:"levels"` // "scenario": "localhost"
	Scenario string            `json:"-"`
}

// measureData is a headline metric.
type measureData struct {
	Workload string `json:"workload"`
	Metric   string `json:"metric"`
	Name     string `json:"name"` // "mean latency"
	Higher   bool   `json:"higher"`
	Base     string `json:"base"` // unit of the values
}

// viewData is one measure in one stratum. Numbers of two views are never on one axis.
type viewData struct {
	Stratum  int         `json:"stratum"` // index
	Measure  int         `json:"measure"` // index
	Unit     string      `json:"unit"`    // for people, of a value over Divisor
	Divisor  float64     `json:"divisor"`
	Decimals int         `json:"decimals"`
	Headline string      `json:"headline"`
	Pins     []int       `json:"pins"` // indices of the arms that the headline names, and of the reference
	Points   []pointData `json:"points"`

	decided int // how many arms changed by more than little
}

// pointData is one arm at one N. Estimates are [estimate, low, high, confidence]; of
// confidence 0 there is no interval.
type pointData struct {
	Arm      int        `json:"a"` // index
	N        int        `json:"n"`
	Trials   int        `json:"k"`           // usable ones
	Value    *[4]number `json:"v,omitempty"` // in base units
	Zero     *[4]number `json:"z,omitempty"` // ratio to the same arm without policies
	Ref      *[4]number `json:"r,omitempty"` // ratio to the reference without policies
	Text     string     `json:"t,omitempty"` // of Value, Zero and Ref, as the tables have them
	ZeroText string     `json:"tz,omitempty"`
	RefText  string     `json:"tr,omitempty"`
	ZeroWord string     `json:"wz,omitempty"` // verdict
	RefWord  string     `json:"wr,omitempty"`
	Raw      []number   `json:"x,omitempty"` // the trials, in base units
	Note     string     `json:"o,omitempty"` // what kept trials from being numbers
}

// number is a value with as many digits as the CSV of a figure has.
type number float64

// MarshalJSON writes 10 significant digits.
func (n number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return []byte(strconv.FormatFloat(float64(n), 'g', 10, 64)), nil
}

// encoded is the data as JSON that can stand in a script element: json escapes "<".
func (d pageData) encoded() ([]byte, error) {
	out, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode the page's data: %w", err)
	}
	return out, nil
}

// dataOf is what is drawn of an estimator's runs.
func dataOf(e *summary.Estimator) partData {
	d := partData{Clock: e.Clock(), Confidence: e.Confidence, Estimator: e.EstimatorTitle(), Reference: e.Reference,
		Arms: armsOf(e), Strata: strataOf(e), Measures: []measureData{}, Views: []viewData{}}
	measures := e.Measures()
	for _, m := range measures {
		d.Measures = append(d.Measures, measureData{m.Workload, m.Metric, m.Name, m.HigherIsBetter, e.Units[m.Metric]})
	}
	for i, s := range e.Strata {
		for k, m := range measures {
			v := viewOf(e, s, m)
			if v.Stratum, v.Measure = i, k; len(v.Points) > 0 {
				d.Views = append(d.Views, v)
			}
		}
	}
	for i, v := range d.Views {
		if v.Stratum == d.Views[0].Stratum && v.decided > d.Views[d.First].decided {
			d.First = i
		}
	}
	return d
}

// armsOf are the lines of the report with what the catalog says of them.
func armsOf(e *summary.Estimator) []armData {
	out := []armData{}
	for _, line := range e.Lines {
		a := armData{Name: line.String(), Clients: line.Clients, Structure: "other", Mechanism: "none", Bare: e.NoPolicies(line)}
		if i := slices.IndexFunc(e.Cells, func(c *runs.Cell) bool { return c.Get(runs.FactorArm) == line.Arm }); i >= 0 {
			a.describe(e.Words, e.Cells[i].Factors)
		}
		out = append(out, a)
	}
	return out
}

// describe sets what an arm with these factors is.
func (a *armData) describe(words catalog.Catalog, factors map[string]string) {
	fabric, filter := words.Datapath(factors)
	on, _ := words.Fabric(fabric)
	is, known := words.Filter(filter)
	a.Fabric, a.Filter = fabric, filter
	a.Mechanism = cmp.Or(is.Mechanism, on.Mechanism, "none")
	switch {
	case known && !is.Policies:
		a.Structure = catalog.Nothing
	case is.Structure != "":
		a.Structure = is.Structure
	}
}

func strataOf(e *summary.Estimator) []stratumData {
	out := []stratumData{}
	for _, s := range e.Strata {
		d := stratumData{Name: s.String(), Levels: map[string]string{runs.FactorScenario: s.Scenario}}
		for _, f := range summary.Factors() {
			if level := s.Level(f); level != "" {
				d.Levels[f.Name] = level
			}
		}
		out = append(out, d)
	}
	return out
}

// viewOf is a measure in a stratum, without points where no cell has it.
func viewOf(e *summary.Estimator, in summary.Stratum, m summary.Measure) viewData {
	all := e.Summaries(in, m.Workload, m.Metric)
	sc := e.Scale(e.Units[m.Metric], summary.Medians(all))
	v := viewData{Unit: sc.Unit, Divisor: sc.Divisor, Decimals: sc.Decimals}
	for _, s := range all {
		v.Points = append(v.Points, pointOf(e, s, m, sc))
	}
	if len(all) > 0 {
		text, named, decided := headlineOf(e, in, m, sc)
		v.Headline, v.Pins, v.decided = text, pinsOf(e, named), decided
	}
	return v
}

// pinsOf are the indices of lines, and of the reference, each once.
func pinsOf(e *summary.Estimator, named []summary.Line) []int {
	out := []int{}
	for _, line := range append(named, summary.Line{Arm: e.Reference, Clients: e.Clients()[0]}) {
		if i := slices.Index(e.Lines, line); i >= 0 && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}

func pointOf(e *summary.Estimator, s summary.Summary, m summary.Measure, sc table.Scale) pointData {
	p := pointData{Arm: slices.Index(e.Lines, s.Point.Line), N: s.Policies, Trials: s.N, Note: summary.MissingNote(s),
		Value: fourOf(s.Median), Zero: fourOf(s.VsZero), Ref: fourOf(s.VsReference)}
	if s.Median != nil {
		p.Text = table.ValueWithInterval(s.Median, sc, e.Confidence)
	}
	if s.VsZero != nil {
		p.ZeroText, p.ZeroWord = table.RatioWithInterval(s.VsZero, e.Confidence), summary.Word(s.VsZero, m.HigherIsBetter, e.Confidence)
	}
	if s.VsReference != nil {
		p.RefText, p.RefWord = table.RatioWithInterval(s.VsReference, e.Confidence), summary.Word(s.VsReference, m.HigherIsBetter, e.Confidence)
	}
	if g := e.At(s.Point.Stratum, s.Workload, s.Point.Line, s.Policies); g != nil {
		for _, v := range g.Samples(m.Metric) {
			p.Raw = append(p.Raw, number(v))
		}
	}
	return p
}

func fourOf(e *stat.Estimate) *[4]number {
	if e == nil {
		return nil
	}
	return &[4]number{number(e.Estimate), number(e.Low), number(e.High), number(e.Confidence)}
}
