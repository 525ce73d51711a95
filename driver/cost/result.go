package cost

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/stat"
)

// confidence of every interval.
const confidence = 0.95

// minHalf is the smallest sample of which the faster half is taken: of fewer, a
// bootstrap's interval is too wide to say anything where values are bimodal.
const minHalf = 20

// estimate is the mean of the faster half of a sample with its interval: what
// disturbs a run on this computer only ever slows it. Below minHalf values it is
// the median between order statistics.
func estimate(x []float64, higherIsFaster bool) stat.Estimate {
	if len(x) >= minHalf {
		if e, ok := (stat.Bootstrap{}).FasterHalfInterval(x, higherIsFaster, confidence); ok {
			return e
		}
	}
	return stat.MedianInterval(x, confidence)
}

// estimator names what estimate gives for a number of rounds.
func estimator(rounds int) string {
	if rounds >= minHalf {
		return fmt.Sprintf("mean of the faster half of %d rounds, %.0f %% interval by bootstrap t", rounds, 100*confidence)
	}
	return fmt.Sprintf("median of %d rounds between order statistics", rounds)
}

// writeCSV writes one line a cell: ns is the estimate that estimator names, in
// nanoseconds, median and cov (standard deviation over mean) are of all rounds.
func writeCSV(w io.Writer, cells []*Cell) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"program", "hook", "project", "policies", "match", "status", "reason", "rounds", "ns", "low", "high", "confidence", "median", "cov", "load_seconds"})
	for _, c := range cells {
		row := []string{c.Program, c.Hook, c.Project, strconv.Itoa(c.Policies), c.Match, c.Status, c.Reason, strconv.Itoa(len(c.NS))}
		if len(c.NS) == 0 {
			row = append(row, "", "", "", "", "", "")
		} else {
			e := estimate(c.NS, false)
			for _, v := range []float64{e.Estimate, e.Low, e.High, e.Confidence, stat.Median(c.NS), stat.CoV(c.NS)} {
				row = append(row, number(v, 4))
			}
		}
		_ = out.Write(append(row, number(c.LoadSeconds, 6)))
	}
	out.Flush()
	return out.Error()
}

// number is v with at most so many decimals, "" for what is none.
func number(v float64, decimals int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	p := math.Pow(10, float64(decimals))
	return strconv.FormatFloat(math.Round(v*p)/p, 'f', -1, 64)
}

// Table is a table of text; the first column is left-aligned, the others right.
type Table struct {
	Title   string
	Columns []string
	Rows    [][]string
	Notes   []string
}

// Tables are the cells as people read them.
func Tables(cells []*Cell, rounds int, m Machine) []Table {
	out := []Table{nsTable(cells, rounds, m)}
	if t := ratioTable(cells, m); len(t.Rows) > 0 {
		out = append(out, t)
	}
	return out
}

func nsTable(cells []*Cell, rounds int, m Machine) Table {
	var all []entry
	for _, c := range cells {
		all = append(all, entry{c.Program, c.Project, c.Policies, c.Match, c.Status, c.Reason, c.text()})
	}
	return matchTable("Nanoseconds per packet", all, "Each number: "+estimator(rounds)+". "+columnsNote, m.note())
}

// entry is a number of matchTable, as text.
type entry struct {
	program, project string
	policies         int
	match            string
	status, reason   string
	text             string
}

// columnsNote says what the columns of matchTable are.
const columnsNote = "Columns: the policy that the packet meets; none drops it (xdp-pass and tc-pass pass it)."

// matchTable has a row for each program and N, a column for each policy that a packet meets, and
// after the notes what kept entries from having a number. Entries of a row follow one another.
func matchTable(title string, all []entry, notes ...string) Table {
	t := Table{Title: title, Columns: append([]string{"program", "project", "policies"}, matches()...), Notes: notes}
	noted := map[string]bool{}
	for i, e := range all {
		if i == 0 || all[i-1].program != e.program || all[i-1].policies != e.policies {
			row := make([]string, len(t.Columns))
			row[0], row[1], row[2] = e.program, e.project, strconv.Itoa(e.policies)
			t.Rows = append(t.Rows, row)
		}
		if at := slices.Index(t.Columns, e.match); at >= 0 {
			t.Rows[len(t.Rows)-1][at] = e.text
		}
		if e.reason != "" && !noted[e.program+e.reason] {
			noted[e.program+e.reason] = true
			t.Notes = append(t.Notes, fmt.Sprintf("%s, N = %d: %s: %s", e.program, e.policies, e.status, ends(e.reason)))
		}
	}
	return t
}

// ends are the first and the last line of a text: what failed, and a tool's last
// word.
func ends(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) == 1 {
		return lines[0]
	}
	return lines[0] + " ... " + lines[len(lines)-1]
}

// text is the cell in a table.
func (c *Cell) text() string {
	if c.Status != record.StatusOK || len(c.NS) == 0 {
		return c.Status
	}
	e := estimate(c.NS, false)
	return fmt.Sprintf("%s (%s to %s)", nanoseconds(e.Estimate), nanoseconds(e.Low), nanoseconds(e.High))
}

func nanoseconds(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// Ratio compares two cells of one run.
type Ratio struct {
	What  string        `json:"what"`
	Ratio stat.Estimate `json:"ratio"`
}

// Ratios are what cells of one run show without a unit: each program at the most
// policies over at the fewest, and each of hookbed's hashes over the program that does
// the most alike, at the most policies both have.
func Ratios(cells []*Cell) []Ratio {
	var out []Ratio
	seen := map[string]bool{}
	for _, c := range cells {
		if seen[c.Program] {
			continue
		}
		seen[c.Program] = true
		low, high := extremes(cells, c.Program)
		if low == nil || low == high {
			continue
		}
		out = append(out, ratio(fmt.Sprintf("%s: %d policies over %d", c.Program, high.Policies, low.Policies), high, low))
	}
	for _, pair := range [][2]string{{"xdp-hash", "xdp-filter"}, {"xdp-hash", "xdp-filter-all"}, {"xdp-hash", "bpfilter-set-xdp"}, {"tc-hash", "bpfilter-set"}, {"tc-hash-policy-first", "bpfilter-set"}, {"tc-linear", "bpfilter-linear"}} {
		if a, b := common(cells, pair[0], pair[1]); a != nil {
			out = append(out, ratio(fmt.Sprintf("%s over %s at %d policies", pair[0], pair[1], a.Policies), a, b))
		}
	}
	return out
}

func ratio(what string, num, den *Cell) Ratio {
	return Ratio{what, ratioOf(num.NS, den.NS, false)}
}

// ratioOf is the ratio of two estimates of one run. From stat.MinBootstrap rounds
// on it is of the faster halves, with a bootstrap over rounds, which took both;
// below, of the medians.
func ratioOf(num, den []float64, higherIsFaster bool) stat.Estimate {
	n := min(len(num), len(den))
	rounds := make([]float64, n)
	for i := range rounds {
		rounds[i] = float64(i)
	}
	pick := func(x, rounds []float64) float64 {
		out := make([]float64, len(rounds))
		for i, r := range rounds {
			out[i] = x[int(r)]
		}
		return stat.FasterHalf(out, higherIsFaster)
	}
	of := func(rounds []float64) float64 { return pick(num, rounds) / pick(den, rounds) }
	if e, ok := (stat.Bootstrap{}).Percentile(rounds, of, confidence); ok {
		return e
	}
	return stat.Bootstrap{}.Ratio(num, den, confidence)
}

// measured says whether a cell has numbers; ratios are of the last match.
func (c *Cell) measured() bool {
	return c.Match == matchLast && c.Status == record.StatusOK && len(c.NS) > 0
}

func extremes(cells []*Cell, program string) (low, high *Cell) {
	for _, c := range cells {
		if c.Program != program || !c.measured() {
			continue
		}
		if low == nil || c.Policies < low.Policies {
			low = c
		}
		if high == nil || c.Policies > high.Policies {
			high = c
		}
	}
	return low, high
}

// common are the cells of two programs at the most policies that both have.
func common(cells []*Cell, a, b string) (x, y *Cell) {
	for _, c := range cells {
		for _, d := range cells {
			same := c.Program == a && d.Program == b && c.Policies == d.Policies && c.measured() && d.measured()
			if same && (x == nil || c.Policies > x.Policies) {
				x, y = c, d
			}
		}
	}
	return x, y
}

func ratioTable(cells []*Cell, m Machine) Table {
	t := Table{Title: "Ratios within this run", Columns: []string{"what", "ratio", "interval"},
		Notes: []string{fmt.Sprintf("Of packets that meet the last policy. From %d rounds on the ratio of the faster halves, below of the medians; %.0f %% intervals by bootstrap over rounds.", stat.MinBootstrap, 100*confidence),
			m.note() + " On another processor, or with other mitigations, ratios of two programs are others: quote them with it."}}
	for _, r := range Ratios(cells) {
		t.Rows = append(t.Rows, []string{r.What, number(r.Ratio.Estimate, 3), number(r.Ratio.Low, 3) + " to " + number(r.Ratio.High, 3)})
	}
	return t
}

// Text writes the table for a terminal.
func (t Table) Text(w io.Writer) {
	widths := make([]int, len(t.Columns))
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	fmt.Fprintf(w, "%s\n", t.Title)
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		var line []string
		for i, cell := range row {
			format := "%*s"
			if i == 0 {
				format = "%-*s"
			}
			line = append(line, fmt.Sprintf(format, widths[i], cell))
		}
		fmt.Fprintf(w, "  %s\n", strings.TrimRight(strings.Join(line, "  "), " "))
	}
	for _, note := range t.Notes {
		fmt.Fprintf(w, "  %s\n", note)
	}
}

// Markdown writes the table for documents.
func (t Table) Markdown(w io.Writer) {
	fmt.Fprintf(w, "## %s\n\n| %s |\n|---|%s\n", t.Title, strings.Join(t.Columns, " | "), strings.Repeat("---:|", len(t.Columns)-1))
	for _, row := range t.Rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprintln(w)
	for _, note := range t.Notes {
		fmt.Fprintf(w, "- %s\n", note)
	}
	fmt.Fprintln(w)
}
