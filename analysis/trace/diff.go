package trace

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"hookbed/analysis/durable"
)

// FunctionDiff is a function in two traces, per unit each.
type FunctionDiff struct {
	Name           string
	Self, Against  float64 // instructions of the function itself
	Total, TotalOf float64 // with what it called
	Calls, CallsOf float64
}

// More is by how many instructions per unit the function itself is dearer in the first trace.
func (d FunctionDiff) More() float64 { return d.Self - d.Against }

// Compare lists what the functions of whole units cost in a and in b, by name: the largest
// difference of Self first. The sum of More is the difference of the two units.
func Compare(a, b *Trace) []FunctionDiff {
	at := map[string]int{}
	var out []FunctionDiff
	for _, side := range []*Trace{a, b} {
		for _, f := range side.Measured.Functions() {
			i, known := at[f.Name]
			if !known {
				i = len(out)
				at[f.Name] = i
				out = append(out, FunctionDiff{Name: f.Name})
			}
			d, self, total, calls := &out[i], side.PerUnit(f.Self), side.PerUnit(f.Total), side.PerUnit(f.Calls)
			if side == a {
				d.Self, d.Total, d.Calls = d.Self+self, d.Total+total, d.Calls+calls
			} else {
				d.Against, d.TotalOf, d.CallsOf = d.Against+self, d.TotalOf+total, d.CallsOf+calls
			}
		}
	}
	slices.SortStableFunc(out, func(x, y FunctionDiff) int {
		return cmp.Or(cmp.Compare(math.Abs(y.More()), math.Abs(x.More())), strings.Compare(x.Name, y.Name))
	})
	return out
}

// DiffFile is the path of a file of a difference below a run directory, by what both cells are
// called: "trace/diff/localhost-TCP_RR-6.12/iptables-n100--docker-n0.svg". Within one run no two
// differences have the same.
func DiffFile(a, b *Trace, extension string) string {
	return filepath.Join(Dir, diffDir, a.place(b), a.nameBeside(b)+"--"+b.nameBeside(a)+extension)
}

// FindDiff is the path of a file of a difference below a run directory that has it. Until the
// files were named by arms they were named by the cells' IDs.
func FindDiff(runDir string, a, b *Trace, extension string) (file string, ok bool) {
	for _, file := range []string{DiffFile(a, b, extension), diffByID(a, b, extension)} {
		if st, err := os.Stat(filepath.Join(runDir, file)); err == nil && st.Mode().IsRegular() {
			return file, true
		}
	}
	return "", false
}

func diffByID(a, b *Trace, extension string) string {
	return filepath.Join(Dir, diffDir, a.Cell+"-"+b.Cell+extension)
}

// placeFactors are what two cells that are compared have alike.
func placeFactors() []string {
	return []string{factorScenario, factorWorkload, "clients", "streams", factorKernel, "nic", "mtu"}
}

// place names the directory of a difference: the levels that both cells have alike.
func (t *Trace) place(other *Trace) string {
	var levels []string
	for _, f := range placeFactors() {
		if v := t.Factors[f]; v != "" && v == other.Factors[f] {
			levels = append(levels, fileName(v))
		}
	}
	return cmp.Or(strings.Join(levels, "-"), "cells")
}

// nameBeside names a cell by arm and number of policies, and by the levels that the other one does
// not have. Where that says less than the arm's name, the cell's ID is part of it.
func (t *Trace) nameBeside(other *Trace) string {
	out := fileName(t.Arm()) + "-n" + strconv.Itoa(t.Policies())
	for _, f := range placeFactors() {
		if v := t.Factors[f]; v != other.Factors[f] {
			out += "-" + fileName(cmp.Or(v, "no-"+f))
		}
	}
	if fileName(t.Arm()) != t.Arm() {
		out += "-" + t.Cell
	}
	return out
}

// fileName is a name as a part of a file's: letters, digits, ".", "_" and single hyphens, at most
// 60 of them.
func fileName(s string) string {
	parts := strings.FieldsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '_'
	})
	out := strings.TrimLeft(strings.Join(parts, "-"), ".")
	return out[:min(len(out), 60)]
}

// WriteDiff makes or replaces the files .csv and .svg of a difference: what a costs more than b. It
// removes those of the same cells under their IDs.
func WriteDiff(runDir string, a, b *Trace) error {
	if a.Unit != b.Unit {
		return fmt.Errorf("write difference: %s is per %s and %s per %s: they cannot be compared", a.Cell, a.Unit, b.Cell, b.Unit)
	}
	for _, f := range []struct {
		extension string
		write     func(io.Writer, *Trace, *Trace) error
	}{{".csv", WriteDiffCSV}, {".svg", WriteDiffFlame}} {
		if err := writeDiffFile(runDir, a, b, f.extension, f.write); err != nil {
			return fmt.Errorf("write difference: %w", err)
		}
	}
	return nil
}

func writeDiffFile(runDir string, a, b *Trace, extension string, write func(io.Writer, *Trace, *Trace) error) error {
	var out bytes.Buffer
	if err := write(&out, a, b); err != nil {
		return err
	}
	path := filepath.Join(runDir, DiffFile(a, b, extension))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(runDir, diffByID(a, b, extension))); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// WriteDiffCSV writes what functions cost per unit in a and in b.
func WriteDiffCSV(w io.Writer, a, b *Trace) error {
	lines := [][]string{{"function", "self_a", "self_b", "difference", "total_a", "total_b", "calls_a", "calls_b"}}
	for _, d := range Compare(a, b) {
		lines = append(lines, []string{d.Name, fixed(d.Self, 3), fixed(d.Against, 3), fixed(d.More(), 3), fixed(d.Total, 3), fixed(d.TotalOf, 3), fixed(d.Calls, 4), fixed(d.CallsOf, 4)})
	}
	return csv.NewWriter(w).WriteAll(lines)
}

// WriteDiffFlame writes the differential flame graph of a against b, per unit. A frame is as wide
// as the dearer of the two; orange costs more in a, blue less. What only b has is outlined, after
// the other callees of its caller.
func WriteDiffFlame(w io.Writer, a, b *Trace) error {
	root := &union{name: "all"}
	root.add(a, func(u *union) *float64 { return &u.self })
	root.add(b, func(u *union) *float64 { return &u.against })
	root.finish()
	f := flame{title: diffTitle(a, b), root: root.frame(a.Unit), legend: diffLegend(a, b),
		subtitle: fmt.Sprintf("instructions a %s: %s against %s, a difference of %s.", a.Unit, thousands(root.total), thousands(root.totalOf), signedThousands(root.total-root.totalOf))}
	_, err := w.Write(f.svg())
	return err
}

// diffTitle names two cells: what they have in common once.
func diffTitle(a, b *Trace) string {
	x, y := strings.Split(a.Title(), ", "), strings.Split(b.Title(), ", ")
	var common []string
	for len(x) > 1 && len(y) > 1 && x[len(x)-1] == y[len(y)-1] {
		common = append([]string{x[len(x)-1]}, common...)
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	out := strings.Join(x, ", ") + " against " + strings.Join(y, ", ")
	if len(common) > 0 {
		out += ": " + strings.Join(common, ", ")
	}
	return out
}

// union is a stack in either trace.
type union struct {
	name           string
	self, against  float64 // per unit
	total, totalOf float64
	width          float64
	inner          []*union
	at             map[string]*union
}

// add merges a trace's stacks into the union; side is where its numbers go.
func (u *union) add(t *Trace, side func(*union) *float64) {
	nodes := make([]*union, len(t.Measured.Nodes))
	for i, n := range t.Measured.Nodes {
		nodes[i] = u
		if n.Parent >= 0 {
			nodes[i] = nodes[n.Parent].child(n.Name)
		}
		*side(nodes[i]) += t.PerUnit(n.Self)
	}
}

func (u *union) child(name string) *union {
	if k := u.at[name]; k != nil {
		return k
	}
	if u.at == nil {
		u.at = map[string]*union{}
	}
	k := &union{name: name}
	u.at[name], u.inner = k, append(u.inner, k)
	return k
}

// finish sums up. A frame's width holds those of its callees.
func (u *union) finish() {
	u.total, u.totalOf, u.width = u.self, u.against, max(u.self, u.against)
	for _, k := range u.inner {
		k.finish()
		u.total, u.totalOf, u.width = u.total+k.total, u.totalOf+k.totalOf, u.width+k.width
	}
}

// frame is the union as it is drawn.
func (u *union) frame(unit string) *frame {
	f := &frame{name: u.name, width: u.width, fill: diffColor(u.total, u.totalOf)}
	f.tip = []string{fmt.Sprintf("%s instructions a %s against %s: %s", thousands(u.total), unit, thousands(u.totalOf), signedThousands(u.total-u.totalOf)),
		fmt.Sprintf("itself %s against %s", thousands(u.self), thousands(u.against))}
	switch {
	case u.total == 0 && u.totalOf > 0:
		f.class, f.fill, f.last = "gone", "", true
		f.tip = append(f.tip, "gone")
	case u.totalOf == 0 && u.total > 0:
		f.tip = append(f.tip, "new")
	}
	for _, k := range u.inner {
		f.inner = append(f.inner, k.frame(unit))
	}
	return f
}

// diffSteps are the colors of a difference, by its part of the larger of both: orange for more,
// blue for less (Brewer's diverging PuOr, which the color-blind can tell apart).
func diffSteps() []struct {
	from       float64
	more, less string
} {
	return []struct {
		from       float64
		more, less string
	}{{0.6, "#e08214", "#5b8fc9"}, {0.25, "#f5a75a", "#8fb4dd"}, {0.05, "#fbcf9f", "#bdd3ec"}, {0.005, "#fdeadb", "#e2ecf7"}}
}

// diffSame is the color where both cost the same.
const diffSame = "#eeeeee"

func diffColor(a, b float64) string {
	most := max(a, b)
	if most == 0 {
		return diffSame
	}
	part := (a - b) / most
	for _, s := range diffSteps() {
		switch {
		case part >= s.from:
			return s.more
		case part <= -s.from:
			return s.less
		}
	}
	return diffSame
}

func diffLegend(a, b *Trace) []legendEntry {
	var out []legendEntry
	steps := diffSteps()
	for _, s := range steps {
		out = append(out, legendEntry{fill: s.more, text: "more by " + percentFrom(s.from)})
	}
	out = append(out, legendEntry{fill: diffSame, text: "same"})
	for i := range steps {
		s := steps[len(steps)-1-i]
		out = append(out, legendEntry{fill: s.less, text: "less by " + percentFrom(s.from)})
	}
	return append(out, legendEntry{class: "gone", fill: "#fff", text: "not in " + a.Arm() + " at all"},
		legendEntry{fill: "none", text: fmt.Sprintf("width: the dearer of %s and %s, function by function", a.Arm(), b.Arm())})
}

func percentFrom(v float64) string { return strconv.FormatFloat(100*v, 'f', -1, 64) + " % or more" }

// thousands writes a number of instructions per unit, with one decimal below 1000.
func thousands(v float64) string {
	if math.Abs(v) < 1000 {
		return fixed(v, 1)
	}
	return grouped(int64(math.Round(v)))
}

func signedThousands(v float64) string {
	if v > 0 {
		return "+" + thousands(v)
	}
	return strings.Replace(thousands(v), "-", "−", 1)
}
