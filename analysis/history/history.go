// Package history says how the numbers of an experiment moved from run to run: for each cell the
// series of its headline metric, and the points at which it changed. In virtual time every
// difference is a change; on wall clocks a test decides, and what it cannot tell is no change. It is
// pure: runs in, series out, and the texts, tables and the page that show them.
package history

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// DefaultMargin is how far a level may move, relative to what it was, and still be the same: 2 %.
const DefaultMargin = 0.02

// DefaultLevel is the share of false ones that is allowed among the cells that changed.
const DefaultLevel = 0.05

// Options say what counts as a change. The zero value has the defaults.
type Options struct {
	Margin float64 // relative; 0 = DefaultMargin
	Level  float64 // 0 = DefaultLevel
	Seed   uint64  // of the permutations
}

func (o Options) withDefaults() Options {
	if o.Margin == 0 {
		o.Margin = DefaultMargin
	}
	if o.Level == 0 {
		o.Level = DefaultLevel
	}
	return o
}

// Night is one run of a history, or the record of one that left no numbers.
type Night struct {
	Name     string `json:"name"`               // of its pack or directory; or its date
	Date     string `json:"date,omitempty"`     // as in HISTORY.csv: 20260102T030405Z
	Revision string `json:"revision,omitempty"` // of the driver
	Verdict  string `json:"verdict,omitempty"`  // against the baseline of that night
	Clock    string `json:"clock,omitempty"`    // "" without numbers
	// Environment is what differs from the environment of the last night before it that has numbers,
	// as far as results depend on it.
	Environment []runs.Difference `json:"environment"`

	values map[key]float64
	cells  []cell
}

// key names a series.
type key struct{ cell, metric string }

// cell is what a night knows of a series in addition to its value.
type cell struct {
	key
	title, unit string
	higher      bool // higher values are better
}

// Measured reports whether the night has numbers.
func (n *Night) Measured() bool { return n.Clock != "" }

// Read takes from a run what its history needs: one number of each cell, by the plan's estimator.
func (n *Night) Read(r runs.Run) error {
	set, err := runs.Arrange([]runs.Run{r})
	if err != nil {
		return err
	}
	n.Clock, n.values = r.Clock(), map[key]float64{}
	for _, c := range set.Cells {
		metric := runs.HeadlineOf(set.Words, c, c)
		v := value(r, set.Words, c, metric)
		if metric == "" || math.IsNaN(v) {
			continue
		}
		k := key{c.ID, metric}
		n.values[k] = v
		n.cells = append(n.cells, cell{k, c.Title(), set.Units[metric], set.Words.HigherIsBetter(metric)})
	}
	return nil
}

// value is a cell's number: the estimate of its trials; in virtual time, where only seeds vary, the
// median of those of its seeds. NaN without trials.
func value(r runs.Run, words catalog.Catalog, c *runs.Cell, metric string) float64 {
	reduce := stat.Median
	if r.Estimator() == runs.EstimatorFasterHalf {
		reduce = func(x []float64) float64 { return stat.FasterHalf(x, words.HigherIsBetter(metric)) }
	}
	x := c.Samples(metric)
	if len(x) == 0 {
		return math.NaN()
	}
	if r.Clock() != runs.ClockVirtual {
		return reduce(x)
	}
	var perSeed []float64
	for _, b := range c.Blocks(metric) {
		perSeed = append(perSeed, reduce(b.Values))
	}
	return stat.Median(perSeed)
}

// Words for a series, in the order of importance.
const (
	Changed  = "changed"           // a level moved by more than the margin
	Small    = "small changes"     // levels moved, by no more than the margin
	NoChange = "no change"         // or none that can be told from noise
	TooFew   = "too few runs"      // for any change to be told from noise
	exact    = "exact"             // methods
	tested   = "Pettitt, permuted" // methods
)

// Change is a point at which a series moved.
type Change struct {
	Night  string  `json:"night"`      // the first one at the new level
	After  string  `json:"after"`      // the last one at the old level
	Old    float64 `json:"old"`        // median of the nights at the old level, in base units
	New    float64 `json:"new"`        // and at the new one
	Ratio  float64 `json:"ratio"`      // new over old
	P      float64 `json:"p_value"`    // 0 if the change is exact
	Method string  `json:"method"`     // "exact", or the test
	Beyond bool    `json:"beyond"`     // the ratio is beyond the margin
	Better bool    `json:"better"`     // the new level is the better one
	Conf   float64 `json:"confidence"` // 1 - p

	at int // place of Night in the series
}

// Series is a cell's numbers, in the order of the nights.
type Series struct {
	Cell    string    `json:"cell"`
	Title   string    `json:"title"`
	Metric  string    `json:"metric"`
	Unit    string    `json:"unit"`
	Word    string    `json:"verdict"` // Changed, Small, NoChange or TooFew
	Nights  []string  `json:"nights"`  // those that have a value
	Values  []float64 `json:"values"`  // of these nights, in base units
	Changes []Change  `json:"changes"`
}

// History is what became of an experiment's numbers.
type History struct {
	Clock  string   `json:"clock"`  // wall or virtual
	Margin float64  `json:"margin"` // relative
	Level  float64  `json:"level"`  // allowed share of false ones among the cells that changed
	PValue float64  `json:"p_used"` // largest p-value that was taken for a change; 0 on virtual clocks
	Nights []*Night `json:"nights"`
	Series []Series `json:"series"` // those that changed first
}

// Make arranges nights, which are in their order and on one clock, and finds the changes.
func Make(nights []*Night, opt Options) History {
	opt = opt.withDefaults()
	h := History{Margin: opt.Margin, Level: opt.Level, Nights: nights, Series: []Series{}}
	var order []cell
	higher := map[key]bool{}
	for _, n := range nights {
		if n.Environment == nil {
			n.Environment = []runs.Difference{}
		}
		if n.Measured() {
			h.Clock = n.Clock
		}
		for _, c := range n.cells {
			if _, known := higher[c.key]; !known {
				order = append(order, c)
			}
			higher[c.key] = c.higher
		}
	}
	for _, c := range order {
		h.Series = append(h.Series, seriesOf(c, nights))
	}
	if h.Clock == runs.ClockVirtual {
		for i := range h.Series {
			h.Series[i].add(stat.Steps(h.Series[i].Values), opt, exact, order[i].higher)
		}
	} else {
		h.test(order, opt)
	}
	slices.SortStableFunc(h.Series, func(a, b Series) int { return cmp.Compare(rank(a.Word), rank(b.Word)) })
	return h
}

func rank(word string) int { return slices.Index([]string{Changed, Small, NoChange, TooFew}, word) }

func seriesOf(c cell, nights []*Night) Series {
	s := Series{Cell: c.cell, Title: c.title, Metric: c.metric, Unit: c.unit, Changes: []Change{}}
	for _, n := range nights {
		if v, ok := n.values[c.key]; ok {
			s.Nights, s.Values = append(s.Nights, n.Name), append(s.Values, v)
		}
	}
	return s
}

// test finds the changes on wall clocks. Which p-value is small enough depends on all cells: of
// hundred that did not change, five have one below 0.05.
func (h *History) test(order []cell, opt Options) {
	p := make([]float64, len(h.Series))
	for i, s := range h.Series {
		_, p[i] = stat.ChangePoint(s.Values, s.options(opt, 0))
	}
	h.PValue = stat.FalseDiscovery(p, opt.Level)
	for i := range h.Series {
		s := &h.Series[i]
		var found []stat.Change
		if h.PValue > 0 && p[i] <= h.PValue {
			found = stat.Changes(s.Values, s.options(opt, h.PValue))
		}
		s.add(found, opt, tested, order[i].higher)
		if len(s.Values) < stat.MinSeries {
			s.Word = TooFew
		}
	}
}

// options are those of a series: its permutations are its own, and do not depend on other cells.
func (s Series) options(opt Options, level float64) stat.ChangeOptions {
	sum := fnv.New64a()
	_ = binary.Write(sum, binary.LittleEndian, opt.Seed)
	_, _ = sum.Write([]byte(s.Cell + " " + s.Metric))
	return stat.ChangeOptions{Level: level, Seed: sum.Sum64()}
}

// add notes changes, and the word for them.
func (s *Series) add(found []stat.Change, opt Options, method string, higher bool) {
	s.Word = NoChange
	for _, c := range found {
		r := c.Ratio()
		out := Change{Night: s.Nights[c.At], After: s.Nights[c.At-1], Old: c.Before, New: c.After, Ratio: r, P: c.P, Method: method, Conf: 1 - c.P, at: c.At}
		out.Beyond = math.Abs(math.Log(r)) > math.Log1p(opt.Margin)
		out.Better = (r > 1) == higher
		s.Changes = append(s.Changes, out)
		switch {
		case out.Beyond:
			s.Word = Changed
		case s.Word == NoChange:
			s.Word = Small
		}
	}
}
