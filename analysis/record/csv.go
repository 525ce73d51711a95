package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// EncodeHeader is the header line with its line break.
func EncodeHeader(factors []string) []byte {
	return encode([][]string{Header(factors)})
}

// Encode is the lines of rows, to append in one write. Consecutive rows of one trial are
// closed by a row of ClosingMetric, so a trial's rows are encoded by one call. It refuses
// rows that a Reader would refuse.
func Encode(factors []string, rows []Row) ([]byte, error) {
	var lines [][]string
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].together(rows[0]) {
			n++
		}
		own, err := encodeTrial(factors, rows[:n])
		if err != nil {
			return nil, fmt.Errorf("encode row of cell %s trial %d: %w", rows[0].Cell, rows[0].Trial, err)
		}
		lines, rows = append(lines, own...), rows[n:]
	}
	return encode(lines), nil
}

// encodeTrial is the lines of one trial and its closing row.
func encodeTrial(factors []string, rows []Row) ([][]string, error) {
	lines, seen := make([][]string, 0, len(rows)+1), map[string]bool{}
	for _, r := range rows {
		if err := r.Check(); err != nil {
			return nil, err
		}
		if seen[r.Metric] {
			return nil, fmt.Errorf("metric %q is there twice", r.Metric)
		}
		seen[r.Metric] = true
		lines = append(lines, r.Fields(factors))
	}
	sum := sha256.New()
	for line := range bytes.Lines(encode(lines)) {
		addToSum(sum, line)
	}
	closing := rows[0]
	closing.Metric, closing.Unit, closing.Value, closing.Raw = ClosingMetric, closingUnit, float64(len(rows)), digestOf(sum)
	return append(lines, closing.Fields(factors)), nil
}

// addToSum adds a line from its third column on to the digest of its trial.
func addToSum(sum hash.Hash, line []byte) {
	rest := line
	for range 2 { // schema and run
		i := bytes.IndexByte(rest, ',') // the ID of a run has no commas
		rest = rest[i+1:]
	}
	sum.Write(rest)
}

func digestOf(sum hash.Hash) string { return digestPrefix + hex.EncodeToString(sum.Sum(nil)) }

func encode(lines [][]string) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	// A bytes.Buffer accepts every write, so there is no error.
	_ = w.WriteAll(lines)
	return b.Bytes()
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
