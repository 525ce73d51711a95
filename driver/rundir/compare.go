package rundir

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/driver/plan"
)

// maxDifferences is the largest number of differences that an error names.
const maxDifferences = 5

// Check compares the plan of the run with the plan to which the experiment expands
// now. If they differ, the error wraps ErrPlanChanged and names what differs.
func (d *Dir) Check(now *plan.Plan) error {
	was, err := d.plan.SameTrials()
	if err != nil {
		return err
	}
	is, err := now.SameTrials()
	if err != nil || was == is {
		return err
	}
	diff, err := differences(d.plan, now)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w since %s was made: %s; resume without the experiment file, or begin a new run",
		ErrPlanChanged, filepath.Join(d.path, planFile), strings.Join(diff, "; "))
}

// differences lists how the specs of two plans differ, for readers.
func differences(was, now *plan.Plan) ([]string, error) {
	a, err := flat(was.Spec)
	if err != nil {
		return nil, err
	}
	b, err := flat(now.Spec)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range union(a, b) {
		if a[k] != b[k] {
			out = append(out, fmt.Sprintf("%s was %s, is %s", k, orAbsent(a[k]), orAbsent(b[k])))
		}
	}
	if len(out) == 0 {
		return []string{fmt.Sprintf("the same experiment now expands to other cells or another order (%d cells and %d trials, were %d and %d): the driver has changed",
			len(now.Cells), len(now.Trials), len(was.Cells), len(was.Trials))}, nil
	}
	if more := len(out) - maxDifferences; more > 0 {
		out = append(out[:maxDifferences], fmt.Sprintf("and %d more", more))
	}
	return out, nil
}

func union(a, b map[string]string) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

func orAbsent(level string) string {
	if level == "" {
		return "absent"
	}
	return level
}

// flat turns a Spec into its JSON values by dotted path.
func flat(s plan.Spec) (map[string]string, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode experiment: %w", err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("decode experiment: %w", err)
	}
	out := map[string]string{}
	flatten("", v, out)
	return out, nil
}

// flatten descends into objects and into lists of objects; any other list is one
// value.
func flatten(path string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flatten(strings.TrimPrefix(path+"."+k, "."), e, out)
		}
		return
	case []any:
		if len(v) > 0 {
			if _, objects := v[0].(map[string]any); objects {
				for i, e := range v {
					flatten(fmt.Sprintf("%s[%d]", path, i), e, out)
				}
				return
			}
		}
	}
	data, _ := json.Marshal(v) // it came from JSON
	out[path] = string(data)
}
