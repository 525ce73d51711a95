package runstest

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

// Read gives a run the rows, in the order of a rows.csv.
func Read(t *testing.T, r runs.Run, rows []record.Row) runs.Run {
	t.Helper()
	seen := map[string]bool{}
	for _, row := range rows {
		for f := range row.Factors {
			seen[f] = true
		}
	}
	factors := slices.Collect(maps.Keys(seen))
	lines, err := record.Encode(factors, rows)
	if err == nil {
		err = r.ReadRows(bytes.NewReader(append(record.EncodeHeader(factors), lines...)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// WithoutClosing makes the rows of a run directory those of the time before trials had
// closing rows.
func WithoutClosing(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, runs.RowsFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range bytes.Lines(data) {
		if bytes.Contains(line, []byte(record.ClosingMetric)) {
			continue
		}
		if bytes.HasPrefix(line, []byte("2,")) {
			line = append([]byte("1"), line[1:]...)
		}
		out = append(out, line...)
	}
	WriteFile(t, path, out)
}
