package runs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"slices"

	"hookbed/analysis/record"
)

// Trial is one attempt at one trial. Its texts and its list of metrics are shared with other
// trials, so that a measurement takes the eight bytes of its number.
type Trial struct {
	Run          string // name of the run, once it is arranged
	Cell         string
	Block, Trial int
	Seed         string // level of FactorSeed, "" on wall clocks
	Status       string
	Reason       string
	Factors      map[string]string // levels of the cell and FactorSeed; shared, not to be changed
	Superseded   bool              // a later attempt at the same trial was ok

	boot   int // number of the block, or of the first that it was parted into
	set    int // number of Factors in the run
	has    *measures
	values []float64 // in the order of has
}

// measure is what one number of a trial is of.
type measure struct{ metric, unit string }

// measures are those of a trial, shared by all trials that have the same.
type measures struct {
	all   []measure // in the order of the rows
	index map[string]int
	names []string // sorted
}

func newMeasures(all []measure) *measures {
	m := &measures{all: slices.Clone(all), index: map[string]int{}}
	for i, one := range m.all {
		m.index[one.metric] = i
	}
	m.names = slices.Sorted(maps.Keys(m.index))
	return m
}

// OK reports whether the trial's numbers may be used.
func (t *Trial) OK() bool { return t.Status == record.StatusOK }

// Value is the trial's number of a metric, in the metric's unit; ok is false without one.
func (t *Trial) Value(metric string) (value float64, ok bool) {
	if t.has == nil {
		return 0, false
	}
	i, ok := t.has.index[metric]
	if !ok {
		return 0, false
	}
	return t.values[i], true
}

// Metrics lists the metrics that the trial has numbers of, sorted. The list is shared and not
// to be changed.
func (t *Trial) Metrics() []string {
	if t.has == nil {
		return nil
	}
	return t.has.names
}

// Recorded lists them in the order of the rows.
func (t *Trial) Recorded() []string {
	var out []string
	if t.has != nil {
		for _, m := range t.has.all {
			out = append(out, m.metric)
		}
	}
	return out
}

// Unit is the unit of a metric that the trial has, "" of another.
func (t *Trial) Unit(metric string) string {
	if t.has == nil {
		return ""
	}
	if i, ok := t.has.index[metric]; ok {
		return t.has.all[i].unit
	}
	return ""
}

// Set adds a number to a trial, or replaces it.
func (t *Trial) Set(metric, unit string, value float64) {
	all, values := []measure{}, slices.Clone(t.values)
	if t.has != nil {
		all = slices.Clone(t.has.all)
	}
	i := slices.IndexFunc(all, func(m measure) bool { return m.metric == metric })
	if i < 0 {
		i, all, values = len(all), append(all, measure{}), append(values, 0)
	}
	all[i], values[i] = measure{metric, unit}, value
	t.has, t.values = newMeasures(all), values
}

// sameAttempt reports whether two trials are parts of one.
func (t *Trial) sameAttempt(o *Trial) bool {
	return t.Cell == o.Cell && t.Block == o.Block && t.Trial == o.Trial && t.Status == o.Status && t.Reason == o.Reason
}

type trialKey struct {
	run, cell    string
	block, trial int
}

func (t *Trial) key() trialKey { return trialKey{t.Run, t.Cell, t.Block, t.Trial} }

// ReadRows reads a rows.csv into the run: its trials and what else depends on rows. It
// refuses rows that contradict the run's plan.
func (r *Run) ReadRows(in io.Reader) error {
	whole := sha256.New()
	reader, check := record.NewReader(io.TeeReader(in, whole)), r.Plan.Checker()
	c := collector{run: r, ids: map[measure]uint32{}, lists: map[string]*measures{}, bare: map[attempt]bool{}, sum: sha256.New()}
	for {
		t, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = check.Trial(t)
		}
		if err == nil {
			err = c.add(t)
		}
		if err != nil {
			return err
		}
	}
	r.Torn = reader.Torn()
	whole.Sum(r.Digest[:0])
	c.sum.Sum(r.Measured[:0])
	return nil
}

// collector makes the trials of a run.
type collector struct {
	run   *Run
	ids   map[measure]uint32
	lists map[string]*measures // by the IDs of their measures
	bare  map[attempt]bool     // attempts without measurements
	key   []byte
	own   []measure
	space []float64 // for the numbers of trials to come
	sum   hash.Hash // of all rows, without the name of the run
	text  []byte
}

type attempt struct {
	trialKey
	status, reason string
}

func (c *collector) add(rows *record.Trial) error {
	first := rows.Rows[0]
	for len(c.run.sets) <= rows.FactorSet {
		c.run.sets = append(c.run.sets, nil)
	}
	c.run.sets[rows.FactorSet] = first.Factors
	if c.run.Rows == 0 && first.Run != "" {
		c.run.Name = first.Run // the directory may have been moved or copied
	}
	c.run.Rows += len(rows.Rows)
	t := &Trial{Cell: first.Cell, Block: first.Block, Trial: first.Trial, Seed: first.Factors[FactorSeed],
		Status: first.Status, Reason: first.Reason, Factors: first.Factors, boot: c.run.Plan.first(first.Block), set: rows.FactorSet}
	c.digest(rows)
	if first.Metric == "" {
		bare := attempt{t.key(), t.Status, t.Reason}
		if !c.bare[bare] {
			c.bare[bare] = true
			c.run.Trials = append(c.run.Trials, t)
		}
		return nil
	}
	c.measure(t, rows.Rows)
	if n := len(c.run.Trials); n > 0 && c.run.Trials[n-1].sameAttempt(t) {
		return c.run.Trials[n-1].join(t, rows.Line)
	}
	c.run.Trials = append(c.run.Trials, t)
	return nil
}

// measure gives a trial its numbers.
func (c *collector) measure(t *Trial, rows []record.Row) {
	c.key, c.own = c.key[:0], c.own[:0]
	if cap(c.space)-len(c.space) < len(rows) {
		c.space = make([]float64, 0, max(1<<13, len(rows)))
	}
	from := len(c.space)
	for _, row := range rows {
		if row.Metric == "" {
			continue
		}
		m := measure{row.Metric, row.Unit}
		id, ok := c.ids[m]
		if !ok {
			id = uint32(len(c.ids))
			c.ids[m] = id
		}
		c.key, c.own, c.space = binary.LittleEndian.AppendUint32(c.key, id), append(c.own, m), append(c.space, row.Value)
	}
	t.has = c.lists[string(c.key)]
	if t.has == nil {
		t.has = newMeasures(c.own)
		c.lists[string(c.key)] = t.has
	}
	t.values = c.space[from:len(c.space):len(c.space)]
}

// join adds the numbers of another part of the trial, as files without closing rows may have
// it.
func (t *Trial) join(o *Trial, line int) error {
	for _, m := range o.has.all {
		if _, twice := t.Value(m.metric); twice {
			return fmt.Errorf("line %d: metric %q of cell %s, block %d, trial %d is there twice: rows were copied", line, m.metric, t.Cell, t.Block, t.Trial)
		}
		v, _ := o.Value(m.metric)
		t.Set(m.metric, m.unit, v)
	}
	return nil
}

// digest adds the rows of a trial to the digest of the run's rows.
func (c *collector) digest(t *record.Trial) {
	first := t.Rows[0]
	b := c.text[:0]
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, n := range []int{first.Block, first.Trial, first.Order, len(t.Rows)} {
		b = binary.AppendVarint(b, int64(n))
	}
	for _, s := range []string{first.Cell, first.Status, first.Reason} {
		text(s)
	}
	for _, f := range slices.Sorted(maps.Keys(first.Factors)) {
		text(f)
		text(first.Factors[f])
	}
	for _, row := range t.Rows {
		text(row.Metric)
		text(row.Unit)
		text(row.Raw)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(row.Value))
	}
	c.text = b
	c.sum.Write(b)
}
