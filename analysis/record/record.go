// Package record is the row of rows.csv: one measurement per line, long form,
// with its schema, its encoding and its strict reader. It imports the standard
// library only, and it does not know what factors and metrics mean.
package record

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Schema is the version of the row: a trial ends with a closing row. In openSchema, which
// is read but not written, it does not. A reader refuses any other.
const (
	Schema     = 2
	openSchema = 1
)

// ClosingMetric is the metric of the row that ends a trial. Its value is the number of the
// trial's rows before it, and in place of a raw file it has their digest: "sha256:" and the
// SHA-256 in hex of their lines, each from the column cell to its line break. The name of the
// run is no part of the digest, so that it stays when runs are merged. A closing row is no
// measurement, and a Reader does not return it.
const ClosingMetric = "trial_rows"

const (
	closingUnit  = "1"
	digestPrefix = "sha256:"
)

// Statuses of a row. Only numbers with StatusOK may be used.
const (
	StatusOK          = "ok"
	StatusFailed      = "failed"      // the subject (datapath, workload) did not work as it should
	StatusUnsupported = "unsupported" // this kernel or tool cannot run the cell
	StatusVoid        = "void"        // a guard failed: the number must not be used
	StatusRig         = "rig"         // the testbed failed
)

// Statuses lists every status in the order in which reports count them.
func Statuses() []string {
	return []string{StatusOK, StatusFailed, StatusUnsupported, StatusVoid, StatusRig}
}

// factorPrefix starts the name of every factor's column.
const factorPrefix = "f."

// Row is one measurement of one trial. A trial without measurements (it failed, or
// could not run) is one row with Metric "" and a Reason.
type Row struct {
	Run     string // ID of the run
	Cell    string // ID of the cell
	Block   int    // 1-based; one boot of the lab
	Trial   int    // 1-based within cell and block
	Order   int    // 1-based position in the run
	Status  string // one of Statuses
	Reason  string // why Status is not ok; "" if it is
	Metric  string // "throughput", "rate", "latency_p50", ...
	Unit    string // "bit/s", "1/s", "s", "1"
	Value   float64
	Raw     string            // path of the raw file, relative to the run directory
	Factors map[string]string // levels of the cell, by factor; rows of a Reader share it
}

func fixedColumns() []string {
	return []string{"schema", "run", "cell", "block", "trial", "order", "status",
		"reason", "metric", "unit", "value", "raw"}
}

// Header is the first line of rows.csv: the fixed columns, then "f.FACTOR" for
// each factor, sorted.
func Header(factors []string) []string {
	out := fixedColumns()
	for _, f := range sorted(factors) {
		out = append(out, factorPrefix+f)
	}
	return out
}

// Fields is the row as the fields of one line, in the order of Header(factors).
// Control characters, such as line breaks, become spaces: a row is always one line, and no
// text of a tool can change what a terminal shows. A long reason is cut, since a Reader refuses long
// lines.
func (r Row) Fields(factors []string) []string {
	if len(r.Reason) > maxReason {
		r.Reason = strings.ToValidUTF8(r.Reason[:maxReason], "") + "..."
	}
	value := ""
	if r.Metric != "" {
		value = strconv.FormatFloat(r.Value, 'g', -1, 64)
	}
	out := []string{strconv.Itoa(Schema), r.Run, r.Cell, strconv.Itoa(r.Block), strconv.Itoa(r.Trial),
		strconv.Itoa(r.Order), r.Status, r.Reason, r.Metric, r.Unit, value, r.Raw}
	for _, f := range sorted(factors) {
		out = append(out, r.Factors[f])
	}
	for i, s := range out {
		out[i] = Printable(s)
	}
	return out
}

// Check returns an error for an invalid row: an unknown status, an ok row without a
// metric, a number that is not finite.
func (r Row) Check() error {
	if !slices.Contains(Statuses(), r.Status) {
		return fmt.Errorf("unknown status %q, want one of %s", r.Status, strings.Join(Statuses(), ", "))
	}
	if r.Metric == "" && r.Status == StatusOK {
		return fmt.Errorf("status ok without a metric")
	}
	if r.Metric == ClosingMetric {
		return fmt.Errorf("metric %q is that of closing rows", ClosingMetric)
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return fmt.Errorf("metric %q: value %v is not finite", r.Metric, r.Value)
	}
	return nil
}

// Printable is a text with a space for each control character or CR LF, and with U+FFFD for
// what is not UTF-8.
func Printable(s string) string {
	if printable(s) {
		return s
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
		}
	}
	return true
}

func sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return out
}
