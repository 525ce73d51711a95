package record

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// TornError is a rows.csv whose last line was cut short, as by a crash during
// an append.
type TornError struct {
	Line  int   // 1-based line of the first byte that is not valid
	Valid int64 // bytes before that line: truncating the file to this length repairs it
}

func (e *TornError) Error() string {
	return fmt.Sprintf("line %d: cut short; the first %d bytes are valid", e.Line, e.Valid)
}

// EncodeHeader is the header line with its line break.
func EncodeHeader(factors []string) []byte {
	return encode([][]string{Header(factors)})
}

// Encode is the lines of rows, to append in one write. It refuses rows that Read
// would refuse.
func Encode(factors []string, rows []Row) ([]byte, error) {
	lines := make([][]string, 0, len(rows))
	for _, r := range rows {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("encode row of cell %s trial %d: %w", r.Cell, r.Trial, err)
		}
		lines = append(lines, r.Fields(factors))
	}
	return encode(lines), nil
}

func encode(lines [][]string) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	// A bytes.Buffer accepts every write, so there is no error.
	_ = w.WriteAll(lines)
	return b.Bytes()
}

// Read reads a whole rows.csv. Factor columns may have any names; all else is
// strict: columns, schema, numbers and statuses, and errors name the line. The error
// for a last line that was cut short is a *TornError, for a file that a spreadsheet
// saved a *SavedError.
func Read(r io.Reader) ([]Row, error) {
	rows, torn, err := read(r)
	if err != nil {
		return nil, err
	}
	if torn != nil {
		return nil, torn
	}
	return rows, nil
}

// ReadRecovering reads a rows.csv that a crash may have cut short. valid is the
// length in bytes of the prefix to keep (the whole file if no line was cut short, 0
// if the header is not complete); rows are those of that prefix. It leaves out all
// rows of the trial whose line was cut short, because a trial's rows are written at
// once and belong together. Any other defect is an error, as in Read.
func ReadRecovering(r io.Reader) (rows []Row, valid int64, err error) {
	in := &counter{r: r}
	rows, torn, err := read(in)
	if err != nil {
		return nil, 0, err
	}
	if torn != nil {
		return rows, torn.Valid, nil //nolint:nilerr // a torn line is what this function recovers from
	}
	return rows, in.n, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// scan is the state of reading a rows.csv.
type scan struct {
	factors []string // of the columns after the fixed ones
	rows    []Row
	starts  []int64 // offset of each row
	lines   []int
}

func read(r io.Reader) ([]Row, *TornError, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, fmt.Errorf("read rows: %w", err)
	}
	if err := saved(data); err != nil {
		return nil, nil, err
	}
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 {
		return nil, &TornError{Line: 1}, nil
	}
	var s scan
	cut, cutLine, err := s.read(data[:end])
	if err != nil {
		return nil, nil, err
	}
	if cut == len(data) {
		return s.rows, nil, nil
	}
	rows, torn := s.recover(data, cut, cutLine)
	return rows, torn, nil
}

// read parses complete lines and returns offset and line number after the last good
// one. Only the last line may be bad, and only because it lacks fields.
func (s *scan) read(data []byte) (cut, line int, err error) {
	cr := csv.NewReader(bytes.NewReader(data))
	cr.ReuseRecord = true
	cr.FieldsPerRecord = 0 // as many as the header has
	for {
		start := cr.InputOffset()
		fields, err := cr.Read()
		if errors.Is(err, io.EOF) {
			return len(data), line + 1, nil
		}
		line++
		if err != nil {
			if cr.InputOffset() >= int64(len(data)) && line > 1 {
				return int(start), line, nil
			}
			return 0, 0, shapeError(line, err)
		}
		if line == 1 {
			s.factors, err = parseHeader(fields)
		} else {
			err = s.add(fields, start, line)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("line %d: %w", line, err)
		}
	}
}

func shapeError(line int, err error) error {
	var pe *csv.ParseError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("line %d: %w", line, err)
}

func (s *scan) add(fields []string, start int64, line int) error {
	row, err := parseRow(fields, s.factors)
	if err != nil {
		return err
	}
	s.rows = append(s.rows, row)
	s.starts = append(s.starts, start)
	s.lines = append(s.lines, line)
	return nil
}

// recover removes the line that was cut short and the rows of its trial.
func (s *scan) recover(data []byte, cut, line int) ([]Row, *TornError) {
	torn := &TornError{Line: line, Valid: int64(cut)}
	order, known := tornOrder(data[cut:])
	keep := len(s.rows)
	for keep > 0 && s.rows[keep-1].Order == s.rows[len(s.rows)-1].Order {
		if known && s.rows[keep-1].Order != order {
			break // the torn line begins another trial: the last trial is complete
		}
		keep--
		torn.Valid, torn.Line = s.starts[keep], s.lines[keep]
	}
	return s.rows[:keep], torn
}

// tornOrder is the field order of a line that was cut short, if the field is complete.
func tornOrder(tail []byte) (order int, ok bool) {
	i := slices.Index(fixedColumns(), "order")
	fields := strings.Split(string(tail), ",") // run and cell IDs have no commas or quotes
	if len(fields) <= i+1 || strings.Contains(strings.Join(fields[:i], ""), `"`) {
		return 0, false
	}
	order, err := strconv.Atoi(fields[i])
	return order, err == nil
}

func parseHeader(fields []string) (factors []string, err error) {
	fixed := fixedColumns()
	if len(fields) < len(fixed) || !slices.Equal(fields[:len(fixed)], fixed) {
		return nil, fmt.Errorf("columns start with %q, want %q", strings.Join(fields[:min(len(fields), len(fixed))], ","), strings.Join(fixed, ","))
	}
	for _, f := range fields[len(fixed):] {
		name, ok := strings.CutPrefix(f, factorPrefix)
		if !ok || name == "" {
			return nil, fmt.Errorf("unknown column %q, want %sFACTOR", f, factorPrefix)
		}
		if slices.Contains(factors, name) {
			return nil, fmt.Errorf("column %q is there twice", f)
		}
		factors = append(factors, name)
	}
	return factors, nil
}

func parseRow(f []string, factors []string) (Row, error) {
	if f[0] != strconv.Itoa(Schema) {
		return Row{}, fmt.Errorf("schema %q, want %d", f[0], Schema)
	}
	r := Row{Run: f[1], Cell: f[2], Status: f[6], Reason: f[7],
		Metric: f[8], Unit: f[9], Raw: f[11], Factors: map[string]string{}}
	var err error
	for i, dst := range []*int{&r.Block, &r.Trial, &r.Order} {
		if *dst, err = strconv.Atoi(f[3+i]); err != nil {
			return Row{}, fmt.Errorf("%s %q is not a number", fixedColumns()[3+i], f[3+i])
		}
	}
	if r.Value, err = parseValue(r.Metric, f[10]); err != nil {
		return Row{}, err
	}
	for i, name := range factors {
		if level := f[len(fixedColumns())+i]; level != "" {
			r.Factors[name] = level
		}
	}
	return r, r.Check()
}

func parseValue(metric, text string) (float64, error) {
	if metric == "" {
		if text != "" {
			return 0, fmt.Errorf("value %q without a metric", text)
		}
		return 0, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("metric %q: value %q is not a number", metric, text)
	}
	return v, nil
}
