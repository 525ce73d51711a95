// Package rundir is the run directory: everything that one run produces, written
// so that a crash, a kill or a full disk loses nothing that was already recorded.
// It writes and merges runs; package runs reads them for an analysis.
//
//	plan.json            the plan; its presence makes a directory a run directory
//	env.json             the environment, written before the first packet
//	env-2.json, ...      the environment of each later process that resumed the run
//	shard.json           which shard of the plan this is; absent in a whole run
//	rows.csv             the rows, each trial's appended in one write and synced
//	rows-superseded.csv  rows of earlier attempts of trials that were run again
//	raw/CELL/BLOCK-TRIAL[-ATTEMPT]/  raw files, written before the rows that name them
//	blocks/BLOCK.jsonl   what each sealed guest wrote, of a run in virtual time
//	trace/               traces of cells, where they were made
//	lock                 held with flock(2) by the driver at work; contains its PID
//
// In rows.csv every trial appears once, and ends with a closing row: a trial without it is not
// whole, and its rows are removed when the run is continued. A trial that ended failed, void or rig
// may be run again; when its new rows are written, the old ones move to
// rows-superseded.csv. A kill between the two steps of that move leaves the old
// rows in both files, and never in neither.
package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/durable"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/driver/plan"
)

// Files of a run directory.
const (
	planFile       = "plan.json"
	rowsFile       = "rows.csv"
	supersededFile = "rows-superseded.csv"
	lockFile       = "lock"
	rawDir         = "raw"
)

// Errors of run directories.
var (
	ErrNotEmpty    = errors.New("directory is not empty")
	ErrNoRun       = errors.New("not a run directory")
	ErrPlanChanged = errors.New("the plan has changed")
)

// Key names a trial.
type Key struct {
	Cell  string
	Block int
	Trial int
}

// Dir is a run directory that this process holds the lock of. Its methods are
// not safe for concurrent use.
type Dir struct {
	path    string
	name    string
	plan    *plan.Plan
	readers *runs.Plan // the plan as readers of rows decode it
	factors []string
	trials  map[Key]bool // of the plan
	lock    *durable.Lock
	rows    *os.File
	size    int64          // of rows.csv, in bytes
	env     string         // path of the file that WriteEnv wrote
	status  map[Key]string // of the trials in rows.csv
	reason  map[Key]string // of these trials, "" without one
	raw     map[Key]string // raw directories of trials that are running
	shard   Shard
	samples map[string][]sample // by cell, for the stopping rule
	words   catalog.Catalog     // of the plan
	made    []string            // directories that Create made, outermost first
}

// Create makes a run directory for a plan. The directory may exist if it is
// empty; otherwise the error wraps ErrNotEmpty.
func Create(path string, p *plan.Plan) (*Dir, error) { return CreateShard(path, p, Shard{}) }

// CreateShard is Create for one shard of a plan: Pending lists the trials of
// its blocks only, also when the run is resumed. The error for a shard that the plan
// cannot have wraps ErrShard.
func CreateShard(path string, p *plan.Plan, s Shard) (*Dir, error) {
	if err := s.Check(p); err != nil {
		return nil, err
	}
	data, err := p.Encode()
	if err != nil {
		return nil, err
	}
	made, err := makeDirs(path)
	if err != nil {
		removeMade(made)
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	if err := checkEmpty(path); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	d, err := hold(path)
	if err != nil {
		if !errors.Is(err, ErrInUse) {
			_ = os.Remove(filepath.Join(path, lockFile)) // no process holds it
			removeMade(made)
		}
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	d.shard, d.made = s, made
	if err := d.begin(p, data); err != nil {
		err = fmt.Errorf("create run directory: %w", err)
		if errors.Is(err, ErrNotEmpty) { // another driver's run
			return nil, errors.Join(err, d.Close())
		}
		return nil, errors.Join(err, d.Discard())
	}
	return d, nil
}

// Discard closes a run directory that Create made and in which nothing was
// recorded, and removes what Create made: the run's own files, and the directories
// that did not exist before, unless they now contain something else.
func (d *Dir) Discard() error {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if own(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(d.path, e.Name())))
		}
	}
	err = errors.Join(err, d.Close())
	removeMade(d.made)
	return err
}

// own reports whether a run writes a file of this name.
func own(name string) bool {
	switch name {
	case planFile, rowsFile, supersededFile, shardFile, lockFile, rawDir, blocksDir, traceDir:
		return true
	}
	return durable.IsTemp(name) || environmentFile.MatchString(name)
}

var environmentFile = regexp.MustCompile(`^env(-[0-9]+)?\.json$`)

// removeMade removes empty directories, innermost first.
func removeMade(made []string) {
	for _, dir := range slices.Backward(made) {
		if os.Remove(dir) != nil {
			return
		}
	}
}

// Began reports whether anything was recorded from which a later process can
// continue: rows, or what a sealed guest wrote.
func (d *Dir) Began() bool {
	blocks, err := os.ReadDir(filepath.Join(d.path, blocksDir))
	return len(d.status) > 0 || err == nil && len(blocks) > 0
}

// Outcome is the status of a trial's rows and its reason; ok is false if the trial
// has no rows.
func (d *Dir) Outcome(t plan.Trial) (status, reason string, ok bool) {
	status, ok = d.status[keyOf(t)]
	return status, d.reason[keyOf(t)], ok
}

// begin writes the plan and the header of rows.csv; this process holds the lock.
func (d *Dir) begin(p *plan.Plan, encoded []byte) error {
	// Check again under the lock: another driver may have filled the directory.
	if err := checkEmpty(d.path); err != nil {
		return err
	}
	if err := d.setPlan(p, encoded); err != nil {
		return err
	}
	if err := writeShard(d.path, d.shard); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(d.path, planFile), encoded); err != nil {
		return err
	}
	return d.openRows()
}

// Open opens a run directory to continue its run. A row that a crash cut short is
// removed, with the rows of its trial. Rows that contradict the plan, and
// environments that cannot be read, are refused. The error for a directory without
// plan.json wraps ErrNoRun, for one that another driver uses ErrInUse.
func Open(path string) (*Dir, error) {
	data, err := runs.ReadFile(filepath.Join(path, planFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open run directory: %w: %s has no %s", ErrNoRun, path, planFile)
	}
	if err != nil {
		return nil, fmt.Errorf("open run directory: %w", err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("open run directory: %s: %w", filepath.Join(path, planFile), err)
	}
	d, err := hold(path)
	if err != nil {
		return nil, fmt.Errorf("open run directory: %w", err)
	}
	if err = d.setPlan(p, data); err == nil {
		d.shard, err = readShard(path)
	}
	if err == nil {
		err = d.sweep()
	}
	if err == nil {
		err = checkEnvironments(path)
	}
	if err == nil {
		err = checkPlanDigest(path, data)
	}
	if err == nil {
		err = d.openRows()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open run directory: %w", err), d.Close())
	}
	return d, nil
}

// checkEnvironments refuses an environment that no report can read, before more is
// measured.
func checkEnvironments(path string) error {
	if _, err := runs.ReadEnvironments(path); err != nil {
		return fmt.Errorf("%w; the file is damaged: put it back from a copy, or remove it and the run has none recorded", err)
	}
	return nil
}

// checkPlanDigest refuses a plan that is not the one which the run began with, whose digest the
// first environment has: what a plan says is executed.
func checkPlanDigest(path string, encoded []byte) error {
	data, err := runs.ReadFile(filepath.Join(path, runs.EnvFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was run yet
	}
	var env struct {
		Plan string `json:"plan_sha256"`
	}
	if err == nil {
		err = json.Unmarshal(data, &env)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", runs.EnvFile, err)
	}
	sum := sha256.Sum256(encoded)
	if now := hex.EncodeToString(sum[:]); env.Plan != "" && env.Plan != now {
		return fmt.Errorf("%w: %s has the digest %s, and %s of when the run began has %s: put the plan back from a copy, or begin a new run", ErrPlanChanged, planFile, now, runs.EnvFile, env.Plan)
	}
	return nil
}

// checkEmpty refuses a directory with other files than a Create that was killed
// early leaves.
func checkEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.Name() == planFile:
			return fmt.Errorf("%w: %s holds a run already; go on with it by --resume, or choose another directory", ErrNotEmpty, path)
		case e.Name() != lockFile && e.Name() != shardFile && !durable.IsTemp(e.Name()):
			return fmt.Errorf("%w: %s holds %s", ErrNotEmpty, path, e.Name())
		}
	}
	return nil
}

// hold takes the lock of a directory.
func hold(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(filepath.Join(path, lockFile))
	if err != nil {
		return nil, err
	}
	return &Dir{path: path, name: runID(abs), lock: lock, status: map[Key]string{}, reason: map[Key]string{}, raw: map[Key]string{}, samples: map[string][]sample{}}, nil
}

func (d *Dir) setPlan(p *plan.Plan, encoded []byte) (err error) {
	d.plan, d.words, d.factors, d.trials = p, p.Words(), p.FactorNames(), map[Key]bool{}
	for _, t := range p.Trials {
		d.trials[keyOf(t)] = true
	}
	d.readers, err = runs.ParsePlan(encoded)
	return err
}

func keyOf(t plan.Trial) Key { return Key{t.Cell, t.Block, t.Trial} }

var notInID = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// runID is the ID of the run in its rows: the directory's name, with "-" for
// characters that CSV would have to quote.
func runID(abs string) string { return notInID.ReplaceAllString(filepath.Base(abs), "-") }

// Path is the directory's path as it was given to Create or Open.
func (d *Dir) Path() string { return d.path }

// Name is the ID of the run, the same in every row even if the directory was
// renamed between two sessions.
func (d *Dir) Name() string { return d.name }

// Plan is the plan of the run.
func (d *Dir) Plan() *plan.Plan { return d.plan }

// Done lists the trials that need not run again, with their status: ok, or
// unsupported, which a new attempt would not change.
func (d *Dir) Done() map[Key]string {
	out := map[Key]string{}
	for k, s := range d.status {
		if final(s) {
			out[k] = s
		}
	}
	return out
}

func final(status string) bool {
	return status == record.StatusOK || status == record.StatusUnsupported
}

// Shard is the part of the plan that the directory holds.
func (d *Dir) Shard() Shard { return d.shard }

// Pending lists the trials of the shard still to run, in order: those without
// rows that the stopping rule does not pass over, and those that ended failed,
// void or rig.
func (d *Dir) Pending() []plan.Trial {
	return slices.DeleteFunc(slices.Clone(d.plan.Trials), func(t plan.Trial) bool {
		return !d.shard.Has(t.Block) || final(d.status[keyOf(t)]) || d.Stopped(t)
	})
}

// Close releases the lock. All that was recorded is already on disk.
func (d *Dir) Close() error {
	var err error
	if d.rows != nil {
		err = d.rows.Close()
	}
	return errors.Join(err, d.lock.Unlock())
}

// sweep removes the temporary files of a driver that was killed while it wrote.
func (d *Dir) sweep() error {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(d.path, e.Name())))
		}
	}
	return errors.Join(err, d.sweepTraces())
}

// openRows opens rows.csv for appending after it has removed what a crash cut short,
// which is a whole trial; it makes the file if it is missing.
func (d *Dir) openRows() error {
	path := filepath.Join(d.path, rowsFile)
	valid, err := d.index(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if valid == 0 {
		header := record.EncodeHeader(d.factors)
		valid = int64(len(header))
		if err := writeFile(path, header); err != nil {
			return err
		}
	}
	return d.reopenRows(valid)
}

// reopenRows opens rows.csv, cutting it to its valid length.
func (d *Dir) reopenRows(valid int64) error {
	path := filepath.Join(d.path, rowsFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return storageError("open", path, 0, err)
	}
	if d.rows != nil {
		err = d.rows.Close()
	}
	d.rows, d.size = f, valid
	if err == nil {
		err = f.Truncate(valid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return storageError("open", path, 0, err)
	}
	return nil
}

// index notes the status of every trial that has rows, and returns the length of what is
// whole. It refuses rows that contradict the plan, as every reader does.
func (d *Dir) index(path string) (valid int64, err error) {
	f, err := runs.OpenFile(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	reader, check := record.NewReader(f), d.readers.Checker()
	for {
		t, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		if err := check.Trial(t); err != nil {
			return 0, err
		}
		first := t.Rows[0]
		k := keyOfRow(first)
		d.status[k], d.reason[k], d.name = first.Status, first.Reason, first.Run
		for _, r := range t.Rows {
			d.note(r)
		}
	}
	if named := reader.Factors(); named != nil && !slices.Equal(named, slices.Sorted(slices.Values(d.factors))) {
		return 0, fmt.Errorf("its columns are not those of %s", planFile)
	}
	return reader.Valid(), nil
}

func keyOfRow(r record.Row) Key { return Key{r.Cell, r.Block, r.Trial} }
