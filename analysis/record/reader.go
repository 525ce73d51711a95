package record

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Limits of what a Reader keeps at a time.
const (
	maxLine  = 1 << 20  // bytes of one line
	maxTrial = 64 << 20 // bytes of the lines of one trial
)

// maxReason is how long a reason may be that is written, in bytes.
const maxReason = 64 << 10

// TornError is a rows.csv that was cut short, as by a crash during an append: inside a line,
// or after a line of a trial that has no closing row.
type TornError struct {
	Line  int   // 1-based line of the first byte that is not valid
	Valid int64 // bytes before that line: truncating the file to this length repairs it
	// The trial that is not whole; Cell is "" where the file does not say which it is.
	Cell         string
	Block, Trial int
}

func (e *TornError) Error() string {
	if e.Cell == "" {
		return fmt.Sprintf("line %d: cut short; the first %d bytes are valid", e.Line, e.Valid)
	}
	return fmt.Sprintf("line %d: %s is cut short; the first %d bytes are valid", e.Line, e.What(), e.Valid)
}

// What names the trial that is not whole: "cell c, block 1, trial 2"; "the last trial" where
// the file does not say which it is.
func (e *TornError) What() string {
	if e.Cell == "" {
		return "the last trial"
	}
	return trialKey{cell: e.Cell, block: e.Block, trial: e.Trial}.String()
}

// Trial is the rows of one trial that are together in a rows.csv. They differ in metric, unit,
// value and raw file only. It is valid until the next call of Reader.Next.
type Trial struct {
	Rows      []Row             // at least one, without the closing row
	Line      int               // of the first row, 1-based
	Offset    int64             // of the first row, in bytes
	Lines     []byte            // as they are in the file, with the closing row
	Sum       [sha256.Size]byte // of the rows' lines, each from the column cell on
	FactorSet int               // the same number for the same Factors, counted from 0
}

// Reader reads a rows.csv a trial at a time, and keeps no more than one. Factor columns may
// have any names; all else is strict: columns, schema, numbers, statuses, closing rows, and
// that no trial is there twice. Errors name the line. The error for a file that a spreadsheet
// saved is a *SavedError.
type Reader struct {
	// Repeats allows the same trial several times, as attempts that were superseded are.
	Repeats bool

	in      *bufio.Reader
	line    []byte // the last line that was read, with its line break
	number  int    // of that line, 1-based
	start   int64  // offset of that line
	end     int64  // offset after it
	held    bool   // that line begins the next trial
	whole   bool   // it has a line break
	last    bool   // nothing follows it
	torn    *TornError
	failed  error
	factors []string
	fields  [][]byte
	fixed   int // number of fixed columns
	set     int // number of the line's factors
	key     []byte

	trial  Trial
	schema int // of its rows
	sum    hash.Hash

	texts   map[string]string // of every cell, metric and so on, once
	sets    map[string]int    // number of each text of the factor columns
	levels  []map[string]string
	metrics map[string]int // number of the trial that had it last
	trials  int
	seen    map[trialKey]bool // closed trials
	open    map[openKey]bool  // trials of openSchema with measurements
}

type trialKey struct {
	cell         string
	block, trial int
}

func (k trialKey) String() string {
	return fmt.Sprintf("cell %s, block %d, trial %d", k.cell, k.block, k.trial)
}

// openKey names what a file of openSchema has once: an attempt at a trial.
type openKey struct {
	trialKey
	status, reason string
	set            int
}

// NewReader returns a Reader, which reads ahead.
func NewReader(in io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(in, 1<<16), fixed: len(fixedColumns()), sum: sha256.New(), texts: map[string]string{},
		sets: map[string]int{}, metrics: map[string]int{}, seen: map[trialKey]bool{}, open: map[openKey]bool{}}
}

// Read reads all rows of a rows.csv. The error for one that was cut short is a *TornError.
func Read(in io.Reader) ([]Row, error) {
	var out []Row
	r := NewReader(in)
	for {
		t, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && r.Torn() != nil:
			return nil, r.Torn()
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, t.Rows...)
	}
}

// Factors are the names of the factor columns, in their order; nil before Next was called, and
// in a file without a whole header.
func (r *Reader) Factors() []string { return r.factors }

// Torn is what was cut short; nil before Next has returned io.EOF, and if nothing was.
func (r *Reader) Torn() *TornError { return r.torn }

// Valid is the length in bytes of what was read whole: the header, 0 without one, and the
// trials that Next returned.
func (r *Reader) Valid() int64 {
	switch {
	case r.torn != nil:
		return r.torn.Valid
	case r.held:
		return r.start
	}
	return r.end
}

// Next is the next trial that is whole; io.EOF after the last one. Every other error is
// final.
func (r *Reader) Next() (*Trial, error) {
	if r.failed != nil {
		return nil, r.failed
	}
	t, err := r.next()
	r.failed = err
	if t != nil {
		r.sum.Sum(t.Sum[:0])
	}
	return t, err
}

func (r *Reader) next() (*Trial, error) {
	if r.factors == nil {
		if err := r.header(); err != nil {
			return nil, err
		}
	}
	r.trial = Trial{Rows: r.trial.Rows[:0], Lines: r.trial.Lines[:0]}
	r.sum.Reset()
	r.trials++
	for {
		if !r.held {
			if err := r.readLine(); errors.Is(err, io.EOF) {
				return r.atEnd()
			} else if err != nil {
				return nil, err
			}
		}
		r.held = false
		row, schema, err := r.parse()
		if err != nil {
			if r.last && errors.Is(err, errShape) {
				return r.cutInLine(row)
			}
			return nil, fmt.Errorf("line %d: %w", r.number, err)
		}
		done, err := r.add(row, schema)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", r.number, err)
		}
		if done {
			return &r.trial, nil
		}
	}
}

// header reads the first line.
func (r *Reader) header() error {
	err := r.readLine()
	if err == nil || errors.Is(err, io.EOF) {
		if err := saved(r.line); err != nil {
			return err
		}
	}
	if errors.Is(err, io.EOF) || err == nil && !r.whole {
		r.torn = &TornError{Line: 1}
		return io.EOF
	}
	if err != nil {
		return err
	}
	fields, err := csv.NewReader(bytes.NewReader(r.line)).Read()
	if err != nil {
		return fmt.Errorf("line 1: no header: %w", notEOF(plain(err)))
	}
	if r.factors, err = parseHeader(fields); err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	if r.factors == nil {
		r.factors = []string{}
	}
	return nil
}

// readLine reads the next line; io.EOF if there is none.
func (r *Reader) readLine() error {
	r.line, r.start, r.whole = r.line[:0], r.end, false
	for {
		part, err := r.in.ReadSlice('\n')
		r.end += int64(len(part))
		if len(r.line) <= maxLine {
			r.line = append(r.line, part...)
		}
		switch {
		case err == nil:
			r.whole = true
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("read rows: %w", err)
		case len(r.line) == 0:
			return io.EOF
		}
		break
	}
	r.number++
	_, err := r.in.Peek(1)
	r.last = err != nil
	if len(r.line) > maxLine && !r.last {
		return fmt.Errorf("line %d: longer than %d bytes", r.number, maxLine)
	}
	return nil
}

// errShape is wrapped by the error for a line that is no row of the file's columns, as one
// that was cut short is.
var errShape = errors.New("wrong number of fields")

func plain(err error) error {
	var pe *csv.ParseError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// notEOF is an error that does not pass for the end of the file.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("an empty line")
	}
	return err
}

// split cuts the line into its fields.
func (r *Reader) split() error {
	line := r.line
	if !r.whole || len(line) > maxLine {
		return fmt.Errorf("%w: cut short", errShape)
	}
	r.fields = r.fields[:0]
	line = line[:len(line)-1]
	if bytes.IndexByte(line, '"') >= 0 {
		fields, err := csv.NewReader(bytes.NewReader(r.line)).Read()
		if err != nil {
			return fmt.Errorf("%w: %w", errShape, plain(err))
		}
		for _, f := range fields {
			r.fields = append(r.fields, []byte(f))
		}
	} else {
		for more := true; more; {
			var f []byte
			f, line, more = bytes.Cut(line, []byte{','})
			r.fields = append(r.fields, f)
		}
	}
	if want := r.fixed + len(r.factors); len(r.fields) != want {
		return fmt.Errorf("%w: %d, want %d", errShape, len(r.fields), want)
	}
	return nil
}

// parse is the line as a row; if its error wraps errShape, the row has only what is certain
// of a line that was cut short.
func (r *Reader) parse() (row Row, schema int, err error) {
	if err := r.split(); err != nil {
		return r.beginning(), 0, err
	}
	f := r.fields
	switch string(f[0]) {
	case strconv.Itoa(Schema):
		schema = Schema
	case strconv.Itoa(openSchema):
		schema = openSchema
	default:
		return row, 0, fmt.Errorf("schema %q, want %d or %d", f[0], openSchema, Schema)
	}
	if row, err = r.row(); err != nil {
		return row, schema, err
	}
	if schema == Schema {
		for _, text := range r.fields {
			if !printable(string(text)) {
				return row, schema, fmt.Errorf("control character or broken UTF-8 in %q", text)
			}
		}
		if row.Metric == ClosingMetric {
			return row, schema, nil
		}
	}
	return row, schema, row.Check()
}

// row makes a row of the fields.
func (r *Reader) row() (row Row, err error) {
	f := r.fields
	row = Row{Run: r.text(f[1]), Cell: r.text(f[2]), Status: r.text(f[6]), Reason: r.long(f[7], func(last Row) string { return last.Reason }),
		Metric: r.text(f[8]), Unit: r.text(f[9]), Raw: r.long(f[11], func(last Row) string { return last.Raw })}
	for i, dst := range []*int{&row.Block, &row.Trial, &row.Order} {
		if *dst, err = strconv.Atoi(string(f[3+i])); err != nil {
			return Row{}, fmt.Errorf("%s %q is not a number", fixedColumns()[3+i], f[3+i])
		}
	}
	if row.Value, err = parseValue(row.Metric, f[10]); err != nil {
		return Row{}, err
	}
	r.set, row.Factors = r.factorSet()
	return row, nil
}

// text is a field as text, the same one for the same bytes.
func (r *Reader) text(b []byte) string {
	s, ok := r.texts[string(b)]
	if !ok {
		s = Printable(string(b))
		r.texts[string(b)] = s
	}
	return s
}

// long is a field with a text that later trials seldom repeat, but the rows of one do.
func (r *Reader) long(b []byte, of func(Row) string) string {
	if len(b) == 0 {
		return ""
	}
	if n := len(r.trial.Rows); n > 0 && of(r.trial.Rows[n-1]) == string(b) {
		return of(r.trial.Rows[n-1])
	}
	return Printable(string(b))
}

// factorSet is the levels of the line's factors, and their number.
func (r *Reader) factorSet() (int, map[string]string) {
	r.key = r.key[:0]
	for _, f := range r.fields[r.fixed:] {
		r.key = append(append(r.key, f...), '\n') // which no field has
	}
	n, ok := r.sets[string(r.key)]
	if !ok {
		n = len(r.levels)
		levels := map[string]string{}
		for i, name := range r.factors {
			if f := r.fields[r.fixed+i]; len(f) > 0 {
				levels[name] = Printable(string(f))
			}
		}
		r.sets[string(r.key)], r.levels = n, append(r.levels, levels)
	}
	return n, r.levels[n]
}

// add adds a row of the last line to the trial; done reports whether that ended the trial.
func (r *Reader) add(row Row, schema int) (done bool, err error) {
	t := &r.trial
	if len(t.Rows) == 0 {
		if schema == Schema && row.Metric == ClosingMetric {
			return false, fmt.Errorf("a closing row without rows of its trial: rows were removed")
		}
		t.Line, t.FactorSet, r.schema, t.Offset = r.number, r.set, schema, r.start
		if err := r.once(row); err != nil {
			return false, err
		}
	} else if other := !row.together(t.Rows[0]) || r.set != t.FactorSet || schema != r.schema; other && r.schema == openSchema {
		r.held = true
		return true, nil
	} else if other {
		return false, fmt.Errorf("%v has no closing row: rows were removed or changed", t.Rows[0].trial())
	}
	t.Lines = append(t.Lines, r.line...)
	if len(t.Lines) > maxTrial {
		return false, fmt.Errorf("%v has more than %d bytes of rows", row.trial(), maxTrial)
	}
	if schema == Schema && row.Metric == ClosingMetric {
		return true, r.close(row)
	}
	if r.metrics[row.Metric] == r.trials && (row.Metric != "" || schema == Schema) {
		return false, fmt.Errorf("metric %q of %v is there twice", row.Metric, row.trial())
	}
	r.metrics[row.Metric] = r.trials
	addToSum(r.sum, r.line)
	t.Rows = append(t.Rows, row)
	return false, nil
}

func (r Row) trial() trialKey { return trialKey{r.Cell, r.Block, r.Trial} }

// together reports whether two rows are of one attempt at a trial.
func (r Row) together(o Row) bool {
	return r.trial() == o.trial() && r.Run == o.Run && r.Order == o.Order && r.Status == o.Status && r.Reason == o.Reason
}

// once refuses a trial that was there before. A file of openSchema may have several
// attempts at one trial.
func (r *Reader) once(first Row) error {
	key := first.trial()
	twice := r.seen[key]
	if r.schema == openSchema {
		attempt := openKey{key, first.Status, first.Reason, r.set}
		twice = twice || r.open[attempt]
		if first.Metric != "" {
			r.open[attempt] = true
		}
		r.open[openKey{trialKey: key}] = true
	} else {
		twice = twice || r.open[openKey{trialKey: key}]
		r.seen[key] = true
	}
	if twice && !r.Repeats {
		return fmt.Errorf("%v is there twice: rows were copied", key)
	}
	return nil
}

// close compares a closing row with the rows before it.
func (r *Reader) close(row Row) error {
	switch {
	case row.Value != float64(len(r.trial.Rows)) || row.Unit != closingUnit:
		return fmt.Errorf("%v has %d rows, and its closing row says %v: rows were removed or added", row.trial(), len(r.trial.Rows), row.Value)
	case row.Raw != digestOf(r.sum):
		return fmt.Errorf("the rows of %v do not have the digest of its closing row: they were changed", row.trial())
	}
	return nil
}

// atEnd is the last trial of a file that ends with a whole line.
func (r *Reader) atEnd() (*Trial, error) {
	if len(r.trial.Rows) == 0 {
		return nil, io.EOF
	}
	if r.schema == openSchema {
		return &r.trial, nil
	}
	r.tearTrial()
	return nil, io.EOF
}

// tearTrial notes that the trial which is read is not whole.
func (r *Reader) tearTrial() {
	first := r.trial.Rows[0]
	r.torn = &TornError{Line: r.trial.Line, Valid: r.trial.Offset, Cell: first.Cell, Block: first.Block, Trial: first.Trial}
	r.trial.Rows = r.trial.Rows[:0]
}

// cutInLine is the last trial of a file whose last line was cut short; row is what is
// certain of that line. If it may be of the trial before it, that one is not whole.
func (r *Reader) cutInLine(row Row) (*Trial, error) {
	if rows := r.trial.Rows; len(rows) > 0 && (r.schema != openSchema || row.Order < 0 || row.Order == rows[0].Order) {
		r.tearTrial()
		return nil, io.EOF
	}
	r.torn = &TornError{Line: r.number, Valid: r.start, Cell: row.Cell, Block: row.Block, Trial: row.Trial}
	if len(r.trial.Rows) > 0 {
		return &r.trial, nil
	}
	return nil, io.EOF
}

// beginning is what is certain of a line that was cut short: the trial, if all of its
// columns are complete. Order is -1 if it is not.
func (r *Reader) beginning() Row {
	none := Row{Order: -1}
	fields := strings.SplitN(string(r.line), ",", 8) // the IDs of runs and cells have no commas or quotes
	i := slices.Index(fixedColumns(), "order")
	if len(fields) <= i+1 || strings.Contains(strings.Join(fields[:i], ""), `"`) {
		return none
	}
	out := Row{Cell: Printable(fields[2])}
	for at, dst := range []*int{&out.Block, &out.Trial, &out.Order} {
		n, err := strconv.Atoi(fields[3+at])
		if err != nil {
			return none
		}
		*dst = n
	}
	return out
}

func parseValue(metric string, text []byte) (float64, error) {
	if metric == "" {
		if len(text) > 0 {
			return 0, fmt.Errorf("value %q without a metric", text)
		}
		return 0, nil
	}
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0, fmt.Errorf("metric %q: value %q is not a number", metric, text)
	}
	return v, nil
}
