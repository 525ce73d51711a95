// Package runs reads run directories: the rows, the environment and the part of
// the plan that an analysis needs, and arranges the rows by cell. It has no
// statistics and never writes; package rundir of the driver writes runs.
package runs

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
)

// Files of a run directory.
const (
	RowsFile = "rows.csv"
	EnvFile  = "env.json"
	PlanFile = "plan.json"
)

// Clocks of a run: levels of FactorClock.
const (
	ClockWall    = "wall"
	ClockVirtual = "virtual"
)

// Run is the content of one run directory.
type Run struct {
	Name   string // ID of the run in its rows, made unique among the runs loaded
	Dir    string
	Trials []*Trial          // in the order of the rows
	Rows   int               // number of measurements and of trials without any
	Digest [sha256.Size]byte // of rows.csv
	// Measured is the digest of all that the rows say, without the name of the run.
	Measured [sha256.Size]byte
	Torn     *record.TornError // what of rows.csv was cut short, and is no trial here; or nil
	Env      map[string]string // env.json, flattened to dotted keys; nil without the file
	// Later are env-2.json, ...: the environments of processes that resumed the
	// run, or of the shards that it was merged from.
	Later []map[string]string
	// Environment is what analyses read of env.json by name; zero without the file.
	Environment Environment
	Plan        *Plan // nil without the file

	sets []map[string]string // all combinations of levels in the rows
}

// Plan is the part of plan.json that an analysis uses. Names are matched
// without regard to case.
type Plan struct {
	Schema int
	// Catalog describes the arms, options and workloads; nil before schema 2.
	Catalog *catalog.Catalog
	Spec    struct {
		Name        string
		Description string
		Seed        uint64
		Lab         struct{ Provider, Endpoint, Clock, Accel, Kernel string }
		Measure     struct {
			Blocks, Seeds, Trials int
			Parts                 int // blocks that the cells of one seed, boot and scenario are parted into; 0 is 1
			Stop                  *Stop
			Estimator             string // EstimatorMedian ("" means this one too) or EstimatorFasterHalf
		}
		Arms      []struct{ Name, Datapath string }
		Scenarios []string
		Workloads []string
	}
	Cells []struct {
		ID      string
		Factors map[string]string
	}
	Trials []struct {
		Block, Trial int
		Cell         string
	}
	Blocks []struct{ Number, Seed int } // empty if blocks do not differ; Seed is 0 on wall clocks
}

// first is the first of the blocks that a block was parted into; without parts, the block itself.
func (p *Plan) first(block int) int {
	if p == nil || p.Spec.Measure.Parts <= 1 {
		return block
	}
	return block - (block-1)%p.Spec.Measure.Parts
}

// Stop is the rule that ends a cell early, between Min and Max trials: when half
// the interval's width over the estimate is at most CI.
type Stop struct {
	CI       float64
	Min, Max int
}

// Estimators: levels of Plan.Spec.Measure.Estimator.
const (
	EstimatorMedian     = "median"
	EstimatorFasterHalf = "faster-half"
)

// Load reads run directories. It refuses rows that contradict their plan
// (Plan.Checker), the same rows twice, unlike environments, and runs on different
// clocks, because measured time and counted instructions do not belong in one
// table. The error names the runs.
func Load(dirs ...string) ([]Run, error) {
	out, err := LoadEach(dirs...)
	if err != nil {
		return nil, err
	}
	return out, checkClocks(out)
}

// LoadEach is Load for a caller that keeps runs on different clocks apart: it
// accepts two clocks, and compares environments among the runs on each.
func LoadEach(dirs ...string) ([]Run, error) {
	if len(dirs) == 0 {
		return nil, errors.New("no run directory given")
	}
	var out []Run
	names := map[string]int{}
	for _, dir := range dirs {
		r, err := read(dir)
		if err != nil {
			return nil, err
		}
		for _, other := range out {
			if r.Rows > 0 && r.Digest == other.Digest {
				return nil, fmt.Errorf("merge runs: %s and %s hold the same rows", other.Dir, dir)
			}
		}
		if names[r.Name]++; names[r.Name] > 1 {
			r.Name = fmt.Sprintf("%s (%d)", r.Name, names[r.Name])
		}
		out = append(out, r)
	}
	for _, part := range ByClock(out) {
		if err := CheckEnvironments(part); err != nil {
			return nil, fmt.Errorf("merge runs: %w", err)
		}
	}
	return out, nil
}

// ByClock splits runs by their clock, first those in virtual time, which are exact.
// Each part has at least one run, and keeps the order of the runs.
func ByClock(all []Run) [][]Run {
	var virtual, others []Run
	for _, r := range all {
		if r.Clock() == ClockVirtual {
			virtual = append(virtual, r)
			continue
		}
		others = append(others, r)
	}
	return slices.DeleteFunc([][]Run{virtual, others}, func(part []Run) bool { return len(part) == 0 })
}

func read(dir string) (Run, error) {
	r := Run{Name: filepath.Base(filepath.Clean(dir)), Dir: dir}
	f, err := OpenFile(filepath.Join(dir, RowsFile))
	if err != nil {
		return Run{}, fmt.Errorf("read rows: %w", err)
	}
	defer f.Close()
	if err := readOptional(filepath.Join(dir, PlanFile), &r.Plan); err != nil {
		return Run{}, err
	}
	if err := r.Plan.check(); err != nil {
		return Run{}, fmt.Errorf("read %s: %w", filepath.Join(dir, PlanFile), err)
	}
	clean(reflect.ValueOf(r.Plan))
	if err := r.ReadRows(f); err != nil {
		return Run{}, fmt.Errorf("read %s: %w", filepath.Join(dir, RowsFile), err)
	}
	envs, err := readEnvironments(dir)
	if err != nil {
		return Run{}, err
	}
	for i, env := range envs {
		if i == 0 {
			r.Env, r.Environment = env.entries, env.Environment
			continue
		}
		r.Later = append(r.Later, env.entries)
	}
	return r, nil
}

// EnvFileName is the n-th environment's file: env.json, env-2.json, ...
func EnvFileName(n int) string {
	if n == 1 {
		return EnvFile
	}
	return fmt.Sprintf("env-%d.json", n)
}

// ReadEnvironments reads env.json, env-2.json and so on of a run directory,
// each flattened to dotted keys; none if there is no env.json.
func ReadEnvironments(dir string) (out []map[string]string, err error) {
	envs, err := readEnvironments(dir)
	for _, env := range envs {
		out = append(out, env.entries)
	}
	return out, err
}

func readEnvironments(dir string) (out []*envFile, err error) {
	for n := 1; ; n++ {
		var env *envFile
		if err := readOptional(filepath.Join(dir, EnvFileName(n)), &env); err != nil {
			return nil, err
		}
		if env == nil {
			return out, nil
		}
		out = append(out, env)
	}
}

// envFile is one environment's file: what is read by name, and all of it.
type envFile struct {
	Environment
	entries map[string]string // flattened to dotted keys
}

// UnmarshalJSON decodes both from one text. Numbers keep their text.
func (f *envFile) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var all any
	if err := dec.Decode(&all); err != nil {
		return err
	}
	f.entries = map[string]string{}
	flatten("", all, f.entries)
	return json.Unmarshal(data, &f.Environment)
}

// readOptional decodes a JSON file into v, which stays as it is if there is no
// such file. Numbers in an any keep their text.
func readOptional(path string, v any) error {
	data, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := dense(data); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// Limits of a JSON file of a run, so that a small file cannot become much in memory: bytes for
// each of its objects, and values beyond those that such objects have.
const (
	minObject = 16
	maxValues = 1 << 20
)

// dense refuses a file that is mostly brackets and commas, as no run writes one.
func dense(data []byte) error {
	if n := bytes.Count(data, []byte("{")); n > maxValues/16+len(data)/minObject {
		return fmt.Errorf("%d objects in %d bytes", n, len(data))
	}
	if n := bytes.Count(data, []byte(",")); n > maxValues+len(data)/minObject {
		return fmt.Errorf("%d values in %d bytes", n, len(data))
	}
	return nil
}

// clean replaces control characters but line breaks and tabs by spaces in all texts of a
// value, so that none of a plan reaches a report.
func clean(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			clean(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			clean(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			clean(v.Index(i))
		}
	case reflect.Map:
		cleanMap(v)
	case reflect.String:
		if s := v.String(); strings.ContainsFunc(s, hidden) {
			v.SetString(visible(s))
		}
	}
}

func cleanMap(v reflect.Value) {
	for _, key := range v.MapKeys() {
		value := reflect.New(v.Type().Elem()).Elem()
		value.Set(v.MapIndex(key))
		clean(value)
		if key.Kind() == reflect.String && strings.ContainsFunc(key.String(), hidden) {
			v.SetMapIndex(key, reflect.Value{})
			key = reflect.ValueOf(visible(key.String())).Convert(key.Type())
		}
		v.SetMapIndex(key, value)
	}
}

func hidden(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }

func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return ' '
		}
		return r
	}, s)
}

// planSchema is the newest schema of plan.json that this package reads.
const planSchema = 2

// check refuses a plan of a later schema, and one that lacks its catalog.
func (p *Plan) check() error {
	switch {
	case p == nil:
		return nil
	case p.Schema > planSchema:
		return fmt.Errorf("schema %d is of a later hookbed, want at most %d", p.Schema, planSchema)
	case p.Schema == planSchema && p.Catalog == nil:
		return fmt.Errorf("schema %d has a catalog, and here is none", p.Schema)
	}
	return nil
}

// Words is the catalog of the run's arms, options and workloads: that of its plan,
// or that of schema 1, whose plans have none.
func (r Run) Words() catalog.Catalog {
	if r.Plan != nil && r.Plan.Catalog != nil {
		return *r.Plan.Catalog
	}
	return catalog.Schema1()
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
		out[record.Printable(prefix)] = record.Printable(fmt.Sprint(v))
	}
}

// checkClocks refuses runs on different clocks.
func checkClocks(all []Run) error {
	seen := map[string]string{}
	for _, r := range all {
		for _, clock := range r.clocks() {
			if seen[clock] == "" {
				seen[clock] = r.Name
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

// clocks lists the clocks of a run's rows; of its plan, if it has no rows.
func (r Run) clocks() []string {
	seen := map[string]bool{}
	for _, levels := range r.sets {
		if clock := levels[FactorClock]; clock != "" {
			seen[clock] = true
		}
	}
	if len(seen) == 0 && r.Plan != nil && r.Plan.Spec.Lab.Clock != "" {
		seen[r.Plan.Spec.Lab.Clock] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// Clock is ClockWall or ClockVirtual; "" if neither rows nor plan have it.
func (r Run) Clock() string {
	if clocks := r.clocks(); len(clocks) > 0 {
		return clocks[0]
	}
	return ""
}

// Estimator is the plan's estimator, which reduces a cell's trials to one number.
func (r Run) Estimator() string {
	if r.Plan == nil || r.Plan.Spec.Measure.Estimator == "" {
		return EstimatorMedian
	}
	return r.Plan.Spec.Measure.Estimator
}

// TornWarning is a sentence about what was cut short in rows.csv, "" if nothing was.
func (r Run) TornWarning() string {
	switch {
	case r.Torn == nil:
		return ""
	case r.Torn.Cell == "":
		return fmt.Sprintf("%s of %s ends in a line cut short; that trial is left out.", RowsFile, r.Name)
	}
	return fmt.Sprintf("%s of %s was cut short in line %d; its trial is left out: %s.", RowsFile, r.Name, r.Torn.Line, r.Torn.What())
}
