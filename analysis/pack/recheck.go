package pack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"hookbed/analysis/report"
)

// tolerance is the largest relative difference of a recomputed number: compilers for
// some processors fuse multiplications and additions, which rounds differently.
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

// Recheck makes the report of an unpacked run again from its rows, and compares
// every number of report.json. An empty result means that the rows give the reported
// numbers.
func Recheck(dir string) ([]Difference, error) {
	fresh, err := os.MkdirTemp("", "hookbed-recheck-")
	if err != nil {
		return nil, fmt.Errorf("recompute report: %w", err)
	}
	defer os.RemoveAll(fresh)
	if _, err := report.Make([]string{dir}, fresh, report.Options{}); err != nil {
		return nil, fmt.Errorf("recompute report: %w", err)
	}
	packed, err := numbers(filepath.Join(dir, reportFile))
	if err != nil {
		return nil, err
	}
	now, err := numbers(filepath.Join(fresh, reportFile))
	if err != nil {
		return nil, err
	}
	paths := slices.AppendSeq(slices.Collect(maps.Keys(packed)), maps.Keys(now))
	slices.Sort(paths)
	var out []Difference
	for _, p := range slices.Compact(paths) {
		if !equal(packed[p], now[p]) {
			out = append(out, Difference{Path: p, Packed: packed[p], Recomputed: now[p]})
		}
	}
	return out, nil
}

// numbers are all numbers of a JSON file: their text by path.
func numbers(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
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
