package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"hookbed/analysis/record"
)

// Files of a run directory that a report reads.
const (
	rowsFile = "rows.csv"
	envFile  = "env.json"
	planFile = "plan.json"
)

// run is one run directory, read.
type run struct {
	name   string
	rows   []record.Row
	digest [sha256.Size]byte // of rows.csv
	torn   bool              // the last line of rows.csv was cut short
	env    map[string]string // env.json, flattened to dotted keys; nil without the file
	plan   *runPlan          // nil without the file
}

// runPlan is the part of plan.json that a report uses. The names are matched
// without regard to case.
type runPlan struct {
	Spec struct {
		Name        string
		Description string
		Lab         struct{ Provider, Endpoint, Accel, Kernel string }
		Arms        []struct{ Name, Datapath string }
		Scenarios   []string
		Workloads   []string
	}
	Cells []struct {
		ID      string
		Factors map[string]string
	}
	Trials []struct {
		Block, Trial int
		Cell         string
	}
}

func loadRun(dir string) (run, error) {
	r := run{name: filepath.Base(filepath.Clean(dir))}
	data, err := os.ReadFile(filepath.Join(dir, rowsFile))
	if err != nil {
		return run{}, fmt.Errorf("read rows: %w", err)
	}
	rows, valid, err := record.ReadRecovering(bytes.NewReader(data))
	if err != nil {
		return run{}, fmt.Errorf("read %s: %w", filepath.Join(dir, rowsFile), err)
	}
	r.rows, r.torn, r.digest = rows, valid != int64(len(data)), sha256.Sum256(data)
	if len(rows) > 0 && rows[0].Run != "" {
		r.name = rows[0].Run // the directory may have been moved or copied
	}
	if err := loadOptional(filepath.Join(dir, planFile), &r.plan); err != nil {
		return run{}, err
	}
	var env any
	if err := loadOptional(filepath.Join(dir, envFile), &env); err != nil {
		return run{}, err
	}
	if env != nil {
		r.env = map[string]string{}
		flatten("", env, r.env)
	}
	return r, nil
}

// loadOptional decodes a JSON file into v, which stays as it is if there is no
// such file. Numbers in an any keep their text.
func loadOptional(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// flatten turns nested JSON into dotted keys.
func flatten(prefix string, v any, out map[string]string) {
	join := func(key string) string {
		if prefix == "" {
			return key
		}
		return prefix + "." + key
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flatten(join(k), e, out)
		}
	case []any:
		for i, e := range v {
			flatten(join(strconv.Itoa(i+1)), e, out)
		}
	case nil:
		out[prefix] = ""
	default:
		out[prefix] = fmt.Sprint(v)
	}
}

func loadRuns(dirs []string) ([]run, error) {
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no run directory given")
	}
	var runs []run
	names := map[string]int{}
	for _, dir := range dirs {
		r, err := loadRun(dir)
		if err != nil {
			return nil, err
		}
		for i, other := range runs {
			if len(r.rows) > 0 && r.digest == other.digest {
				return nil, fmt.Errorf("merge runs: %s and %s hold the same rows", dirs[i], dir)
			}
		}
		if names[r.name]++; names[r.name] > 1 {
			r.name = fmt.Sprintf("%s (%d)", r.name, names[r.name])
		}
		runs = append(runs, r)
	}
	return runs, checkClocks(runs)
}

// checkClocks refuses to put times measured and instructions counted into one table.
func checkClocks(runs []run) error {
	seen := map[string]string{}
	for _, r := range runs {
		for _, row := range r.rows {
			if clock := row.Factors[factorClock]; clock != "" && seen[clock] == "" {
				seen[clock] = r.name
			}
		}
	}
	if len(seen) < 2 {
		return nil
	}
	clocks := slices.Sorted(maps.Keys(seen))
	return fmt.Errorf("merge runs: clocks differ, %s in %s but %s in %s: report them apart",
		clocks[0], seen[clocks[0]], clocks[1], seen[clocks[1]])
}
