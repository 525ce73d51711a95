package trace

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/durable"
)

// Dir is where a run directory has its traces: RUN/trace/CELL/, and diff/ for differences.
const (
	Dir     = "trace"
	diffDir = "diff"
)

// Files of a cell's trace. Read needs the metadata, the tree and the calls; the others are for
// people and other programs.
const (
	metaFile      = "trace.json"
	treeFile      = "tree.csv"
	callsFile     = "calls.csv"
	functionsFile = "functions.csv"
	layersFile    = "layers.csv"
	foldedFile    = "stacks.folded"
	FlameFile     = "flame.svg"
	PathFile      = "path.md"
	DropFile      = "drop.md" // where refused attempts were traced
)

// LayersFigure is the run's figure of all traces, next to its data in layers.csv.
const LayersFigure = "layers.svg"

// schema is the version of trace.json.
const schema = 1

// writer writes one file of a trace.
type writer struct {
	name  string
	write func(io.Writer, *Trace) error
}

// writers are the files of a cell's trace, in a fixed order.
func writers() []writer {
	return []writer{{metaFile, WriteMeta}, {functionsFile, WriteFunctions}, {layersFile, WriteLayers}, {foldedFile, WriteFolded},
		{FlameFile, WriteFlame}, {PathFile, WritePath}, {treeFile, WriteTree}, {callsFile, WriteCalls}}
}

// Write makes or replaces RUN/trace/CELL/ of a run directory: all files or none. The same trace
// gives the same bytes. It refuses a trace whose sums do not agree.
func Write(runDir string, t *Trace) error {
	if err := t.check(); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	parent := filepath.Join(runDir, Dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	to := filepath.Join(parent, t.Cell)
	temp, err := durable.TempDir(to)
	if err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	if err := t.fill(temp); err != nil {
		return errors.Join(fmt.Errorf("write trace: %w", err), os.RemoveAll(temp))
	}
	if err := errors.Join(os.RemoveAll(to), durable.Rename(temp, to)); err != nil {
		return errors.Join(fmt.Errorf("write trace: %w", err), os.RemoveAll(temp))
	}
	return nil
}

// fill writes all files into an empty directory.
func (t *Trace) fill(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	files := writers()
	if t.Drop != nil {
		files = append(files, writer{DropFile, WriteDrop})
	}
	for _, f := range files {
		var b bytes.Buffer
		if err := f.write(&b, t); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := durable.WriteFile(filepath.Join(dir, f.name), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cellName is what a cell's ID must be to name a directory.
var cellName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,99}$`)

// check finds sums that do not agree, and trees that are not trees.
func (t *Trace) check() error {
	if !cellName.MatchString(t.Cell) || t.Cell == diffDir {
		return fmt.Errorf("cell %q cannot name a directory", t.Cell)
	}
	for _, tree := range []Tree{t.Measured, t.Around} {
		for i, n := range tree.Nodes {
			if n.Parent >= i || (n.Parent < 0) != (i == 0) {
				return fmt.Errorf("cell %s: node %d of %s has parent %d, which must come before it", t.Cell, i, n.Name, n.Parent)
			}
		}
	}
	measured, around := t.Measured.Instructions(), t.Around.Instructions()
	if measured != t.Window.Measured {
		return fmt.Errorf("cell %s: the stacks have %d instructions of whole units, the window has %d", t.Cell, measured, t.Window.Measured)
	}
	if measured+around != t.Window.Instructions {
		return fmt.Errorf("cell %s: the stacks have %d instructions, the window has %d", t.Cell, measured+around, t.Window.Instructions)
	}
	if t.Drop != nil {
		if err := t.Drop.check(); err != nil {
			return fmt.Errorf("cell %s: %w", t.Cell, err)
		}
	}
	sum, total := uint64(0), uint64(0)
	for _, c := range t.Path.Calls {
		self, err := c.check(0)
		if err != nil {
			return fmt.Errorf("cell %s: %w", t.Cell, err)
		}
		sum, total = sum+self, total+c.Total
	}
	if sum != t.Path.Instructions || total != sum {
		return fmt.Errorf("cell %s: the calls of the path have %d instructions, the path has %d", t.Cell, sum, t.Path.Instructions)
	}
	return nil
}

// depthMost is how deep calls may be.
const depthMost = 1000

// check is the sum of a call and of what it called.
func (c *Call) check(depth int) (uint64, error) {
	if depth > depthMost {
		return 0, fmt.Errorf("calls are more than %d deep", depthMost)
	}
	sum := c.Self
	for _, k := range c.Calls {
		n, err := k.check(depth + 1)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	if sum != c.Total {
		return 0, fmt.Errorf("a call of %s has %d instructions in total, its parts have %d", c.Name, c.Total, sum)
	}
	return sum, nil
}

// meta is trace.json.
type meta struct {
	Schema int `json:"schema"`
	Trace
	Path pathMeta `json:"path"`
}

// pathMeta is a path without its calls.
type pathMeta struct {
	Instructions uint64      `json:"instructions"`
	Units        int         `json:"units"`
	Same         int         `json:"same"`
	Paths        int         `json:"paths"`
	Least        uint64      `json:"least"`
	Most         uint64      `json:"most"`
	Others       []Variation `json:"others"`
}

// WriteMeta writes trace.json: what was traced, the window, and the path without its calls.
func WriteMeta(w io.Writer, t *Trace) error {
	p := t.Path
	m := meta{Schema: schema, Trace: *t, Path: pathMeta{p.Instructions, p.Units, p.Same, p.Paths, p.Least, p.Most, p.Others}}
	if m.Path.Others == nil {
		m.Path.Others = []Variation{}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode trace: %w", err)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// WriteFunctions writes functions.csv: what each function costs in each layer, of whole units. The
// sum of self is the window's measured instructions.
func WriteFunctions(w io.Writer, t *Trace) error {
	lines := [][]string{{"function", "layer", "self", "total", "calls", "self_per_unit", "total_per_unit", "calls_per_unit"}}
	for _, f := range t.Measured.Functions() {
		lines = append(lines, []string{f.Name, string(f.Layer), decimal(f.Self), decimal(f.Total), decimal(f.Calls),
			fixed(t.PerUnit(f.Self), 3), fixed(t.PerUnit(f.Total), 3), fixed(t.PerUnit(f.Calls), 4)})
	}
	return csv.NewWriter(w).WriteAll(lines)
}

// WriteLayers writes layers.csv: what each layer costs, of whole units.
func WriteLayers(w io.Writer, t *Trace) error {
	lines := [][]string{{"layer", "self", "self_per_unit", "share"}}
	for _, l := range t.Measured.LayerCosts() {
		lines = append(lines, []string{string(l.Layer), decimal(l.Self), fixed(t.PerUnit(l.Self), 3), fixed(share(l.Self, t.Window.Measured), 6)})
	}
	return csv.NewWriter(w).WriteAll(lines)
}

// share is a part of a whole, 0 of nothing.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// aroundFrame is the frame below which stacks.folded has what was before and after whole units.
const aroundFrame = "around"

// WriteFolded writes stacks.folded: a line for each stack with its own instructions, frames
// separated by ";". The lines that do not begin with "around;" add up to the window's measured
// instructions, all lines to the window's.
func WriteFolded(w io.Writer, t *Trace) error {
	sums := map[string]uint64{}
	for _, part := range []struct {
		root string
		tree Tree
	}{{"", t.Measured}, {aroundFrame, t.Around}} {
		for i, n := range part.tree.Nodes {
			if n.Self == 0 {
				continue
			}
			var frames []string
			if part.root != "" {
				frames = append(frames, part.root)
			}
			for _, name := range part.tree.stack(i) {
				frames = append(frames, cleanName(name))
			}
			if len(frames) == 0 || len(frames) == 1 && part.root != "" {
				frames = append(frames, "(no thread)") // the root has instructions of its own
			}
			sums[strings.Join(frames, ";")] += n.Self
		}
	}
	var b bytes.Buffer
	for _, stack := range sortedKeys(sums) {
		fmt.Fprintf(&b, "%s %d\n", stack, sums[stack])
	}
	_, err := w.Write(b.Bytes())
	return err
}

// WriteTree writes tree.csv: both trees, a node a line, a parent before its children. Parents are
// numbered from 0 within each tree; the root's is -1.
func WriteTree(w io.Writer, t *Trace) error {
	lines := [][]string{{"part", "parent", "function", "self", "calls"}}
	for _, part := range []struct {
		name string
		tree Tree
	}{{partMeasured, t.Measured}, {partAround, t.Around}} {
		for _, n := range part.tree.Nodes {
			lines = append(lines, []string{part.name, strconv.Itoa(n.Parent), n.Name, decimal(n.Self), decimal(n.Calls)})
		}
	}
	return csv.NewWriter(w).WriteAll(lines)
}

// Parts of tree.csv.
const (
	partMeasured = "measured"
	partAround   = "around"
)

// WriteCalls writes calls.csv: every call of the path in order of time, with its depth, and whether
// it had begun before.
func WriteCalls(w io.Writer, t *Trace) error {
	lines := [][]string{callColumns()}
	var visit func(depth int, calls []*Call)
	visit = func(depth int, calls []*Call) {
		for _, c := range calls {
			lines = append(lines, []string{strconv.Itoa(depth), c.Name, decimal(c.Self), decimal(c.Total), strconv.FormatBool(c.Resumed)})
			visit(depth+1, c.Calls)
		}
	}
	visit(0, t.Path.Calls)
	return csv.NewWriter(w).WriteAll(lines)
}

func callColumns() []string { return []string{"depth", "function", "self", "total", "resumed"} }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func sortedKeys(m map[string]uint64) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Sorted orders traces for tables: by scenario, workload, number of policies, arm and cell.
func Sorted(all []Trace) []*Trace {
	var out []*Trace
	for i := range all {
		out = append(out, &all[i])
	}
	slices.SortStableFunc(out, func(a, b *Trace) int {
		return cmp.Or(strings.Compare(a.Factors[factorScenario], b.Factors[factorScenario]), strings.Compare(a.Factors[factorWorkload], b.Factors[factorWorkload]),
			cmp.Compare(a.Policies(), b.Policies()), strings.Compare(a.Arm(), b.Arm()), strings.Compare(a.Cell, b.Cell))
	})
	return out
}

// Policies is the cell's number of policies, 0 where it has none.
func (t *Trace) Policies() int {
	n, err := strconv.Atoi(t.Factors[factorPolicies])
	if err != nil {
		return 0
	}
	return n
}
