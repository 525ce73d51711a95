package campaign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// BlockCheck is what replaying the sealed guests of a run again found.
type BlockCheck struct {
	Blocks  int      `json:"blocks"`  // that were replayed
	Trials  int      `json:"trials"`  // whose rows and raw files are as replayed
	Other   bool     `json:"other"`   // the run's bundles are not those of this driver: nothing was replayed
	Missing []string `json:"missing"` // blocks with rows, but without what their guest wrote
	Differ  []string `json:"differ"`  // trials that are not as replayed
}

// CheckBlocks makes the rows of a run in virtual time again from what its sealed guests wrote, in the
// directory scratch, which must be empty, and compares them, and the raw files, with those in dir.
// Every number is checked so: also those of probes, counters and times, which raw files do not have.
// A run on the wall clock has no blocks. Errors are about files that cannot be read.
func CheckBlocks(ctx context.Context, dir, scratch string) (BlockCheck, error) {
	var out BlockCheck
	data, err := runs.ReadFile(filepath.Join(dir, runs.PlanFile))
	if err != nil {
		return out, fmt.Errorf("replay blocks: %w", err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return out, fmt.Errorf("replay blocks: %s: %w", runs.PlanFile, err)
	}
	if p.Spec.Lab.Clock != plan.ClockVirtual {
		return out, nil
	}
	if same, err := sameBundles(p, dir); err != nil || !same {
		out.Other = err == nil
		return out, err
	}
	again, blocks, err := replayBlocks(ctx, p, dir, scratch)
	if err != nil {
		return out, fmt.Errorf("replay blocks: %w", err)
	}
	out.Blocks = len(blocks)
	if err := out.compare(dir, again, blocks); err != nil {
		return out, fmt.Errorf("replay blocks: %w", err)
	}
	return out, nil
}

// sameBundles says whether this driver renders what the run executed, by the digests of its first
// environment.
func sameBundles(p *plan.Plan, dir string) (bool, error) {
	var env struct {
		Bundles map[string]string `json:"bundle_sha256"`
	}
	data, err := runs.ReadFile(filepath.Join(dir, runs.EnvFile))
	if err == nil {
		err = json.Unmarshal(data, &env)
	}
	if err != nil {
		return false, fmt.Errorf("replay blocks: %s: %w", runs.EnvFile, err)
	}
	now, err := bundleDigests(p)
	if err != nil {
		return false, nil //nolint:nilerr // it renders something else, if anything
	}
	return maps.Equal(now, env.Bundles), nil
}

// errNotKept is the error of a guest that would have to be booted.
var errNotKept = errors.New("what its guest wrote is not kept")

// replayBlocks makes a run of the blocks whose replies are kept, and returns its directory and them.
func replayBlocks(ctx context.Context, p *plan.Plan, dir, scratch string) (again string, blocks map[int]bool, err error) {
	again, blocks = filepath.Join(scratch, "replayed"), map[int]bool{}
	d, err := rundir.Create(again, p)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for _, b := range p.Blocks {
		data, err := runs.ReadFile(filepath.Join(dir, "blocks", strconv.Itoa(b.Number)+".jsonl"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = d.SaveBlock(b.Number, data)
		}
		if err != nil {
			return "", nil, err
		}
		blocks[b.Number] = true
	}
	trials := slices.DeleteFunc(slices.Clone(p.Trials), func(t plan.Trial) bool { return !blocks[t.Block] })
	_, err = RunSealed(ctx, SealedConfig{
		Config: Config{Plan: p, Dir: d, Trials: trials, Progress: silent{}, Log: slog.New(slog.DiscardHandler)},
		Jobs:   1, Facts: map[string]any{},
		Boot: func(context.Context, lab.SealedBlock, func(bundle.SealedReply)) ([]byte, error) {
			return nil, errNotKept
		},
	})
	return again, blocks, err
}

// silent is a Progress that nothing shows.
type silent struct{}

func (silent) Phase(string)                        {}
func (silent) Trial(plan.Trial, plan.Cell, string) {}

// replayed is where a trial's rows are in the rows.csv of the replay.
type replayed struct {
	sum    [32]byte
	offset int64
	length int
}

// compare compares the trials of the replayed blocks with those of dir.
func (c *BlockCheck) compare(dir, again string, blocks map[int]bool) error {
	where, missing := map[rundir.Key]replayed{}, map[int]bool{}
	err := eachTrial(again, func(t *record.Trial) error {
		where[keyOfRows(t)] = replayed{t.Sum, t.Offset, len(t.Lines)}
		return nil
	})
	if err != nil {
		return err
	}
	err = eachTrial(dir, func(t *record.Trial) error {
		key := keyOfRows(t)
		if !blocks[key.Block] {
			missing[key.Block] = true
			return nil
		}
		what, err := unlikeReplayed(dir, again, t, where[key])
		if err != nil {
			return err
		}
		delete(where, key)
		if what != "" {
			c.Differ = append(c.Differ, fmt.Sprintf("%s: %s", nameOf(key), what))
			return nil
		}
		c.Trials++
		return nil
	})
	for _, key := range slices.SortedFunc(maps.Keys(where), compareKeys) {
		c.Differ = append(c.Differ, fmt.Sprintf("%s: it has no rows, and its guest executed it", nameOf(key)))
	}
	for _, b := range slices.Sorted(maps.Keys(missing)) {
		c.Missing = append(c.Missing, fmt.Sprintf("block %d", b))
	}
	return err
}

func keyOfRows(t *record.Trial) rundir.Key {
	return rundir.Key{Cell: t.Rows[0].Cell, Block: t.Rows[0].Block, Trial: t.Rows[0].Trial}
}

func nameOf(k rundir.Key) string {
	return fmt.Sprintf("cell %s, block %d, trial %d", k.Cell, k.Block, k.Trial)
}

func compareKeys(a, b rundir.Key) int {
	if a.Block != b.Block {
		return a.Block - b.Block
	}
	if a.Cell != b.Cell {
		if a.Cell < b.Cell {
			return -1
		}
		return 1
	}
	return a.Trial - b.Trial
}

// eachTrial visits the trials of a run directory's rows.csv.
func eachTrial(dir string, visit func(*record.Trial) error) error {
	f, err := runs.OpenFile(filepath.Join(dir, runs.RowsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	reader := record.NewReader(f)
	for {
		t, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", runs.RowsFile, err)
		}
		if err := visit(t); err != nil {
			return err
		}
	}
}

// unlikeReplayed says how a trial differs from the replayed one, "" if it does not.
func unlikeReplayed(dir, again string, t *record.Trial, r replayed) (string, error) {
	if r.length == 0 {
		return "its guest did not execute it", nil
	}
	rows, err := rowsAt(again, r)
	if err != nil {
		return "", err
	}
	if r.sum != t.Sum {
		if what := unlikeRows(t.Rows, rows); what != "" {
			return what, nil
		}
	}
	return unlikeFiles(dir, again, path.Dir(t.Rows[0].Raw), path.Dir(rows[0].Raw))
}

// rowsAt reads the rows of one trial.
func rowsAt(dir string, r replayed) ([]record.Row, error) {
	f, err := os.Open(filepath.Join(dir, runs.RowsFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	header, err := firstLine(f)
	if err != nil {
		return nil, err
	}
	return record.Read(io.MultiReader(bytes.NewReader(header), io.NewSectionReader(f, r.offset, int64(r.length))))
}

// firstLine is the header of a rows.csv, with its line break.
func firstLine(f io.ReaderAt) ([]byte, error) {
	data := make([]byte, 1<<16)
	n, err := f.ReadAt(data, 0)
	if end := bytes.IndexByte(data[:n], '\n'); end >= 0 {
		return data[:end+1], nil
	}
	return nil, fmt.Errorf("%s has no header: %w", runs.RowsFile, err)
}

// unlikeRows says how rows differ from replayed ones, "" if in nothing but the run's name and the last
// bits of numbers.
func unlikeRows(rows, again []record.Row) string {
	byMetric := map[string]record.Row{}
	for _, r := range again {
		byMetric[r.Metric] = r
	}
	for _, r := range rows {
		a, ok := byMetric[r.Metric]
		switch {
		case !ok:
			return fmt.Sprintf("%s is %v %s in %s, and its guest did not measure it", r.Metric, r.Value, r.Unit, runs.RowsFile)
		case r.Status != a.Status || r.Reason != a.Reason:
			return fmt.Sprintf("it is %q (%s) in %s, and %q (%s) by what its guest wrote", r.Status, r.Reason, runs.RowsFile, a.Status, a.Reason)
		case r.Unit != a.Unit || math.Abs(r.Value-a.Value) > rawTolerance*math.Abs(a.Value):
			return fmt.Sprintf("%s is %v %s in %s, and %v %s by what its guest wrote", r.Metric, r.Value, r.Unit, runs.RowsFile, a.Value, a.Unit)
		case r.Order != a.Order || !maps.Equal(r.Factors, a.Factors):
			return "its order or its factors are not those of the plan"
		}
		delete(byMetric, r.Metric)
	}
	for _, name := range slices.Sorted(maps.Keys(byMetric)) {
		return fmt.Sprintf("%s has no row, and is %v %s by what its guest wrote", name, byMetric[name].Value, byMetric[name].Unit)
	}
	return ""
}

// unlikeFiles says which raw file of a trial is not as replayed, "" if all are.
func unlikeFiles(dir, again, from, fromAgain string) (string, error) {
	if fromAgain == "." || !fs.ValidPath(from) {
		return "", nil // it has none
	}
	entries, err := os.ReadDir(filepath.Join(again, filepath.FromSlash(fromAgain)))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(again, filepath.FromSlash(fromAgain), e.Name()))
		if err != nil {
			return "", err
		}
		got, err := runs.ReadFile(filepath.Join(dir, filepath.FromSlash(from), e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err != nil || !bytes.Equal(got, want) {
			return path.Join(from, e.Name()) + " is not what its guest wrote", nil //nolint:nilerr // it is not there
		}
	}
	return "", nil
}
