package campaign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
)

// rawTolerance is the largest relative difference of a number that is computed again:
// processors that fuse multiplications and additions round differently.
const rawTolerance = 1e-12

// maxRaw is the most bytes of one raw file that is parsed.
const maxRaw = 64 << 20

// RawCheck is what parsing the raw results of a run again found.
type RawCheck struct {
	Trials  int      `json:"trials"`  // whose rows follow from their raw results
	Missing []string `json:"missing"` // trials with numbers, but without raw results
	Differ  []string `json:"differ"`  // trials whose rows do not follow
}

// CheckRaw parses the raw results of a run directory again and compares what they give with
// rows.csv: every metric that the workload's tools report. What the driver and the guest
// helper measured themselves - probes, counters, times - is not in raw results.
func CheckRaw(dir string) (RawCheck, error) {
	var out RawCheck
	data, err := runs.ReadFile(filepath.Join(dir, runs.PlanFile))
	if err != nil {
		return out, fmt.Errorf("check raw results: %w", err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return out, fmt.Errorf("check raw results: %s: %w", runs.PlanFile, err)
	}
	f, err := runs.OpenFile(filepath.Join(dir, runs.RowsFile))
	if err != nil {
		return out, fmt.Errorf("check raw results: %w", err)
	}
	defer f.Close()
	reader := record.NewReader(f)
	for {
		t, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("check raw results: %s: %w", runs.RowsFile, err)
		}
		out.add(dir, p, t)
	}
}

// add checks a trial that has numbers.
func (c *RawCheck) add(dir string, p *plan.Plan, t *record.Trial) {
	first := t.Rows[0]
	if first.Metric == "" {
		return
	}
	name := fmt.Sprintf("cell %s, block %d, trial %d", first.Cell, first.Block, first.Trial)
	cell, known := p.CellByID(first.Cell)
	if !known {
		c.Differ = append(c.Differ, name+": the plan has no such cell")
		return
	}
	from, err := rawDir(t)
	if err != nil {
		c.Differ = append(c.Differ, fmt.Sprintf("%s: %v", name, err))
		return
	}
	metrics, err := workload.Parse(cell, rawFiles{os.DirFS(filepath.Join(dir, filepath.FromSlash(from)))})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Missing = append(c.Missing, fmt.Sprintf("%s: %v", name, err))
	case err != nil:
		c.Differ = append(c.Differ, fmt.Sprintf("%s: %v", name, err))
	default:
		if what := unlikeRaw(t, metrics, own(p, cell)); what != "" {
			c.Differ = append(c.Differ, fmt.Sprintf("%s: %s, by the files in %s", name, what, from))
			return
		}
		c.Trials++
	}
}

// rawDir is the directory of a trial's raw files. It refuses a path that is not the trial's.
func rawDir(t *record.Trial) (string, error) {
	first := t.Rows[0]
	for _, r := range t.Rows {
		if r.Raw != first.Raw {
			return "", fmt.Errorf("its rows name different raw files, %q and %q", first.Raw, r.Raw)
		}
	}
	from := path.Dir(first.Raw)
	own := "raw/" + first.Cell + "/" + strconv.Itoa(first.Block) + "-" + strconv.Itoa(first.Trial)
	if first.Raw == "" || from != own && !strings.HasPrefix(from, own+"-") || !fs.ValidPath(from) || strings.Count(from, "/") != 2 {
		return "", fmt.Errorf("its raw file is %q, want one in %s", first.Raw, own)
	}
	return from, nil
}

// own are the metrics that the workload's tools report.
func own(p *plan.Plan, cell plan.Cell) map[string]bool {
	out, words := map[string]bool{}, p.Words()
	w, _ := words.Workload(cell.Get(plan.FactorWorkload))
	for _, m := range slices.Concat(w.Headline, w.Metrics) {
		out[m.Name] = true
	}
	return out
}

// unlikeRaw says how a trial's rows differ from metrics, "" if they do not. A metric of the
// tools must be in both; another, which an older driver did not know, may be in one.
func unlikeRaw(t *record.Trial, metrics []workload.Metric, own map[string]bool) string {
	rows := map[string]record.Row{}
	for _, r := range t.Rows {
		rows[r.Metric] = r
	}
	parsed := map[string]bool{}
	for _, m := range metrics {
		parsed[m.Name] = true
		row, ok := rows[m.Name]
		switch {
		case !ok && own[m.Name]:
			return fmt.Sprintf("%s has no row, and is %v %s", m.Name, m.Value, m.Unit)
		case ok && (row.Unit != m.Unit || math.Abs(row.Value-m.Value) > rawTolerance*math.Abs(m.Value)):
			return fmt.Sprintf("%s is %v %s in %s, and %v %s", m.Name, row.Value, row.Unit, runs.RowsFile, m.Value, m.Unit)
		}
	}
	for _, r := range t.Rows {
		if own[r.Metric] && !parsed[r.Metric] {
			return fmt.Sprintf("%s is %v %s in %s, and not measured", r.Metric, r.Value, r.Unit, runs.RowsFile)
		}
	}
	return ""
}

// rawFiles opens files that are regular and not too large to parse.
type rawFiles struct{ fs.FS }

// Open refuses what is no file of a result.
func (f rawFiles) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxRaw) {
		err = fmt.Errorf("%s is not a regular file of at most %d bytes", name, maxRaw)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
