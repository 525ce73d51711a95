package pack

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"hookbed/analysis/durable"
	"hookbed/analysis/report"
	"hookbed/analysis/runs"
)

// tolerance is the largest relative difference of a recomputed number: on arm64 Go fuses
// multiplications and additions and has another exponential function, which round differently.
const tolerance = 1e-9

// Difference is a number of the report that its rows do not give.
type Difference struct {
	Path       string `json:"path"`       // in report.json: "summaries[3].median.estimate"
	Packed     string `json:"packed"`     // "" if the packed report does not have it
	Recomputed string `json:"recomputed"` // "" if the recomputed report does not have it
}

func (d Difference) String() string {
	orNothing := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return s
	}
	return fmt.Sprintf("%s is %s, the rows give %s", d.Path, orNothing(d.Packed), orNothing(d.Recomputed))
}

// Findings are what does not fit together in an unpacked run. The zero value is nothing.
type Findings struct {
	Numbers []Difference `json:"numbers"` // of report.json that the rows do not give
	Files   []string     `json:"files"`   // of the report that are not as the rows give them
	Records []string     `json:"records"` // where manifest, plan, environment and rows disagree
}

// None reports whether all fits together.
func (f Findings) None() bool { return len(f.Numbers)+len(f.Files)+len(f.Records) == 0 }

// Recheck makes the report of an unpacked run again from its rows, and compares every file of
// it, byte for byte, but for the last digits of numbers in report.json. It also compares manifest,
// plan, environment and rows with each other.
func Recheck(dir string, m Manifest) (Findings, error) {
	var out Findings
	all, err := runs.Load(dir)
	if err != nil {
		return out, err
	}
	out.Records = disagreements(all[0], m)
	fresh, remove, err := durable.Scratch("recheck")
	if err != nil {
		return out, fmt.Errorf("recompute report: %w", err)
	}
	defer func() { _ = remove() }() // what stays costs only space
	if _, err := report.Make([]string{dir}, fresh, report.Options{}); err != nil {
		return out, fmt.Errorf("recompute report: %w", err)
	}
	if out.Files, err = otherFiles(dir, fresh); err != nil {
		return out, err
	}
	at := slices.Index(out.Files, reportFile+" differs")
	if at < 0 {
		return out, nil
	}
	packed, made := filepath.Join(dir, reportFile), filepath.Join(fresh, reportFile)
	if out.Numbers, err = otherNumbers(packed, made); err != nil {
		return out, err
	}
	rounded, err := sameButRounding(packed, made)
	if rounded {
		out.Files = slices.Delete(out.Files, at, at+1)
	}
	return out, err
}

// sameButRounding reports whether two files of JSON say the same, token by token, if numbers within
// the tolerance are equal.
func sameButRounding(packed, fresh string) (bool, error) {
	was, err := runs.ReadFile(packed)
	if err != nil {
		return false, fmt.Errorf("read report: %w", err)
	}
	now, err := runs.ReadFile(fresh)
	if err != nil {
		return false, fmt.Errorf("read report: %w", err)
	}
	a, b := json.NewDecoder(bytes.NewReader(was)), json.NewDecoder(bytes.NewReader(now))
	a.UseNumber()
	b.UseNumber()
	for {
		x, errX := a.Token()
		y, errY := b.Token()
		if errX != nil || errY != nil {
			return errX == io.EOF && errY == io.EOF, nil
		}
		m, isNumber := x.(json.Number)
		n, both := y.(json.Number)
		if !(isNumber && both && equal(m.String(), n.String())) && x != y {
			return false, nil
		}
	}
}

// disagreements are contradictions between the records of an unpacked run.
func disagreements(r runs.Run, m Manifest) (out []string) {
	differ := func(what, a, ofA, b, ofB string) {
		if a != b && a != "" && b != "" {
			out = append(out, fmt.Sprintf("%s is %s in %s, and %s in %s", what, a, ofA, b, ofB))
		}
	}
	differ("the run", m.Run, manifestFile, r.Name, runs.RowsFile)
	differ("the clock", m.Clock, manifestFile, r.Clock(), runs.RowsFile)
	differ("the digest of "+runs.RowsFile, m.RowsSHA256, manifestFile, hex.EncodeToString(r.Digest[:]), "the file")
	if r.Torn != nil {
		out = append(out, fmt.Sprintf("%s was cut short in line %d: %s is not whole", runs.RowsFile, r.Torn.Line, r.Torn.What()))
	}
	if r.Plan == nil {
		return out
	}
	differ("the digest of "+runs.PlanFile, r.Env["plan_sha256"], runs.EnvFile, m.PlanSHA256, manifestFile)
	differ("the clock", r.Env["clock"], runs.EnvFile, r.Plan.Spec.Lab.Clock, runs.PlanFile)
	differ("the provider", r.Env["provider"], runs.EnvFile, r.Plan.Spec.Lab.Provider, runs.PlanFile)
	differ("the experiment", r.Env["experiment"], runs.EnvFile, r.Plan.Spec.Name, runs.PlanFile)
	if seed := r.Plan.Spec.Seed; seed != 0 {
		differ("the seed", r.Env["seed"], runs.EnvFile, strconv.FormatUint(seed, 10), runs.PlanFile)
	}
	return out
}

// otherFiles names the files of a report in dir that are not those in fresh.
func otherFiles(dir, fresh string) (out []string, err error) {
	packed, err := collect(dir, func(name string) bool { return !belongs(name) })
	if err != nil {
		return nil, err
	}
	made, err := collect(fresh, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	want := map[string]string{}
	for _, f := range made {
		want[f.Path] = f.SHA256
	}
	for _, f := range packed {
		switch sum, known := want[f.Path]; {
		case !known:
			out = append(out, f.Path+" is no file of the report")
		case sum != f.SHA256:
			out = append(out, f.Path+" differs")
		}
		delete(want, f.Path)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		out = append(out, name+" is missing")
	}
	return out, nil
}

// otherNumbers are the numbers in which two files of JSON differ.
func otherNumbers(packed, fresh string) (out []Difference, err error) {
	was, err := numbers(packed)
	if err != nil {
		return nil, err
	}
	now, err := numbers(fresh)
	if err != nil {
		return nil, err
	}
	paths := slices.AppendSeq(slices.Collect(maps.Keys(was)), maps.Keys(now))
	slices.Sort(paths)
	for _, p := range slices.Compact(paths) {
		if !equal(was[p], now[p]) {
			out = append(out, Difference{Path: p, Packed: was[p], Recomputed: now[p]})
		}
	}
	return out, nil
}

// numbers are all numbers of a JSON file: their text by path.
func numbers(file string) (map[string]string, error) {
	data, err := runs.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	out := map[string]string{}
	gather("", v, out)
	return out, nil
}

func gather(at string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if at != "" {
				k = at + "." + k
			}
			gather(k, e, out)
		}
	case []any:
		for i, e := range v {
			gather(fmt.Sprintf("%s[%d]", at, i), e, out)
		}
	case json.Number:
		out[at] = v.String()
	}
}

func equal(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && math.Abs(x-y) <= tolerance*max(math.Abs(x), math.Abs(y))
}
