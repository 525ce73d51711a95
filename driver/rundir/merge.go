package rundir

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/durable"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/driver/plan"
)

// Errors of Merge in addition to those of run directories.
var (
	ErrUnlike     = errors.New("these are not shards of one run")
	ErrIncomplete = errors.New("the run is not complete")
)

// Merged is the result of Merge.
type Merged struct {
	Trials   int      `json:"trials"`
	Rows     int      `json:"rows"`
	Missing  []string `json:"missing"`  // what a partial merge lacks, for readers
	Warnings []string `json:"warnings"` // differences between the environments that do not prevent a merge
}

// Merge joins run directories of one plan into a new one, whole or not at all.
// Its rows are in the order of the plan, so that they are the same as those of an
// undivided run, except for the name of the run. The error wraps ErrUnlike if the
// directories are of different plans or from unlike environments (runs.Unlike), or
// if two of them have different rows of one trial; it wraps ErrIncomplete if no
// directory has some shard or trial, unless partial is true.
func Merge(out string, dirs []string, partial bool) (m Merged, err error) {
	abs, err := filepath.Abs(out)
	if err != nil {
		return m, fmt.Errorf("merge: %w", err)
	}
	parts := merger{name: runID(abs), rows: map[Key]part{}}
	defer func() { err = errors.Join(err, parts.close()) }()
	for _, dir := range dirs {
		if err := parts.add(dir); err != nil {
			return m, fmt.Errorf("merge %s: %w", dir, err)
		}
	}
	if len(parts.dirs) == 0 {
		return m, errors.New("merge: no run directories")
	}
	m.Missing = parts.missing()
	if len(m.Missing) > 0 && !partial {
		return m, fmt.Errorf("merge: %w: %s", ErrIncomplete, strings.Join(m.Missing, "; "))
	}
	if m.Warnings, err = parts.compareEnvironments(); err != nil {
		return m, fmt.Errorf("merge: %w", err)
	}
	m.Trials, m.Rows, err = parts.write(abs)
	if err != nil {
		return m, fmt.Errorf("merge into %s: %w", out, err)
	}
	return m, nil
}

// merger holds the run directories that are merged, each under its lock.
type merger struct {
	name       string
	dirs       []*Dir
	rows       map[Key]part
	superseded []byte // lines
}

// part is where the rows of a trial are in the rows.csv of its directory.
type part struct {
	dir     *Dir
	places  []place // several of a trial that old files have several attempts at
	rows    int
	digests string // of its rows, without the name of the run
}

type place struct{ offset, length int64 }

func (m *merger) close() (err error) {
	for _, d := range m.dirs {
		err = errors.Join(err, d.Close())
	}
	return err
}

func (m *merger) plan() *plan.Plan { return m.dirs[0].plan }

func (m *merger) add(path string) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	m.dirs = append(m.dirs, d)
	if d != m.dirs[0] {
		was, err := m.plan().SameTrials()
		if err != nil {
			return err
		}
		is, err := d.plan.SameTrials()
		if err != nil {
			return err
		}
		if was != is {
			diff, err := differences(m.plan(), d.plan)
			if err != nil {
				return err
			}
			return fmt.Errorf("%w: its plan is not that of %s: %s", ErrUnlike, m.dirs[0].path, strings.Join(diff, "; "))
		}
	}
	if err := m.addRows(d); err != nil {
		return err
	}
	old, check := filepath.Join(path, supersededFile), d.readers.Checker()
	err = eachTrial(old, func(t *record.Trial) error {
		m.superseded = append(m.superseded, m.renamed(t.Lines)...)
		return check.Trial(t)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", old, err)
	}
	return nil
}

// addRows adds the trials of a directory. A trial that another directory has, too,
// must have the same rows, as is possible in virtual time.
func (m *merger) addRows(d *Dir) error {
	path, own := filepath.Join(d.path, rowsFile), map[Key]part{}
	err := eachTrial(path, func(t *record.Trial) error {
		k := keyOfRow(t.Rows[0])
		p := own[k]
		p.dir, p.rows, p.digests = d, p.rows+len(t.Rows), p.digests+string(t.Sum[:])
		p.places = append(p.places, place{t.Offset, int64(len(t.Lines))})
		own[k] = p
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for k, p := range own {
		have, twice := m.rows[k]
		if twice && have.digests != p.digests {
			return fmt.Errorf("%w: %s has other rows of cell %s, block %d, trial %d", ErrUnlike, have.dir.path, k.Cell, k.Block, k.Trial)
		}
		if !twice {
			m.rows[k] = p
		}
	}
	return nil
}

// renamed are lines of rows with the name of the merged run, which is their second column.
func (m *merger) renamed(lines []byte) []byte {
	out := make([]byte, 0, len(lines)+64)
	for line := range bytes.Lines(lines) {
		schema, rest, _ := bytes.Cut(line, []byte{','})
		_, rest, _ = bytes.Cut(rest, []byte{','}) // the ID of a run has no commas
		out = append(append(append(append(out, schema...), ','), m.name...), ',')
		out = append(out, rest...)
	}
	return out
}

// missing names the shards and trials that no directory has.
func (m *merger) missing() []string {
	var out []string
	lost := map[int]int{} // trials, by block
	for _, t := range m.plan().Trials {
		if _, ok := m.rows[keyOf(t)]; !ok && !m.dirs[0].Stopped(t) {
			lost[t.Block]++
		}
	}
	for _, s := range m.absentShards() {
		whole := 0
		for block := range lost {
			if s.Has(block) {
				whole += lost[block]
				delete(lost, block)
			}
		}
		if whole > 0 {
			out = append(out, fmt.Sprintf("%s is missing (%d trials)", s, whole))
		}
	}
	for _, block := range slices.Sorted(maps.Keys(lost)) {
		out = append(out, fmt.Sprintf("block %d lacks %d trials; finish it with `driver run --resume`", block, lost[block]))
	}
	return out
}

// absentShards lists the shards that no directory holds, if all directories are
// shards of the same number; else none.
func (m *merger) absentShards() (out []Shard) {
	n, have := m.dirs[0].shard.N, map[int]bool{}
	for _, d := range m.dirs {
		if d.shard.N != n {
			return nil
		}
		have[d.shard.I] = true
	}
	for i := range n {
		if !have[i+1] {
			out = append(out, Shard{I: i + 1, N: n})
		}
	}
	return out
}

// compareEnvironments refuses directories from unlike environments, by the rule of
// every reader of runs (runs.CheckEnvironments). The warnings name what else differs
// from the first directory: the bundles, and the driver's revision.
func (m *merger) compareEnvironments() (warnings []string, err error) {
	var all []runs.Run
	for _, d := range m.dirs {
		envs, err := runs.ReadEnvironments(d.path)
		if err != nil {
			return nil, err
		}
		if len(envs) == 0 && len(d.status) == 0 {
			continue // nothing was measured there
		}
		r := runs.Run{Name: d.path, Plan: d.readers}
		if len(envs) > 0 {
			r.Env, r.Later = envs[0], envs[1:]
		}
		all = append(all, r)
	}
	if err := runs.CheckEnvironments(all); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnlike, err)
	}
	for _, r := range all {
		for i, env := range append([]map[string]string{r.Env}, r.Later...) {
			for _, part := range []string{"hookbed_revision", "bundle_sha256"} {
				if !maps.Equal(below(all[0].Env, part), below(env, part)) {
					file := filepath.Join(r.Name, runs.EnvFileName(i+1))
					warnings = append(warnings, fmt.Sprintf("%s: %s differs from that of %s", file, part, all[0].Name))
				}
			}
		}
	}
	return warnings, nil
}

// below are the entries of one part of an environment.
func below(env map[string]string, part string) map[string]string {
	out := map[string]string{}
	for key, v := range env {
		if key == part || strings.HasPrefix(key, part+".") {
			out[key] = v
		}
	}
	return out
}

// environmentFiles lists env.json, env-2.json, ... in order.
func environmentFiles(dir string) (out []string) {
	for n := 1; ; n++ {
		name := runs.EnvFileName(n)
		if !exists(filepath.Join(dir, name)) {
			return out
		}
		out = append(out, name)
	}
}

// write makes the merged run in a temporary directory and renames it when it is
// complete.
func (m *merger) write(out string) (trials, rows int, err error) {
	if err := makeDir(filepath.Dir(out)); err != nil {
		return 0, 0, err
	}
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return 0, 0, fmt.Errorf("%w: %s", ErrNotEmpty, out)
	}
	temp, err := durable.TempDir(out)
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(temp)
	if trials, rows, err = m.fill(temp); err != nil {
		return 0, 0, err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return 0, 0, err
	}
	return trials, rows, durable.Rename(temp, out)
}

func (m *merger) fill(dir string) (trials, rows int, err error) {
	header, path := record.EncodeHeader(m.plan().FactorNames()), filepath.Join(dir, rowsFile)
	err = durable.Write(path, 0o644, func(f *os.File) error {
		out := bufio.NewWriter(f)
		_, err := out.Write(header)
		if err == nil {
			trials, rows, err = m.writeRows(out)
		}
		return errors.Join(err, out.Flush())
	})
	if err != nil {
		return 0, 0, storageError("write", path, 0, err)
	}
	if len(m.superseded) > 0 {
		if err := writeFile(filepath.Join(dir, supersededFile), append(header, m.superseded...)); err != nil {
			return 0, 0, err
		}
	}
	if err := m.copyFiles(dir); err != nil {
		return 0, 0, err
	}
	encoded, err := m.plan().Encode()
	if err != nil {
		return 0, 0, err
	}
	return trials, rows, writeFile(filepath.Join(dir, planFile), encoded)
}

// writeRows writes the lines of all trials, in the order of the plan.
func (m *merger) writeRows(out io.Writer) (trials, rows int, err error) {
	files := map[*Dir]*os.File{}
	for _, d := range m.dirs {
		f, err := os.Open(filepath.Join(d.path, rowsFile))
		if err != nil {
			return 0, 0, err
		}
		defer f.Close()
		files[d] = f
	}
	for _, t := range m.plan().Trials {
		p, ok := m.rows[keyOf(t)]
		if !ok {
			continue
		}
		trials, rows = trials+1, rows+p.rows
		for _, at := range p.places {
			lines := make([]byte, at.length)
			if _, err := files[p.dir].ReadAt(lines, at.offset); err != nil {
				return 0, 0, err
			}
			if _, err := out.Write(m.renamed(lines)); err != nil {
				return 0, 0, err
			}
		}
	}
	return trials, rows, nil
}

// copyFiles copies environments, raw files, what sealed guests wrote, and traces.
func (m *merger) copyFiles(to string) error {
	envs := 0
	for _, d := range m.dirs {
		for _, name := range environmentFiles(d.path) {
			envs++
			if err := copyFile(filepath.Join(d.path, name), filepath.Join(to, runs.EnvFileName(envs))); err != nil {
				return err
			}
		}
		for _, tree := range []string{rawDir, blocksDir, traceDir} {
			if err := copyTree(filepath.Join(d.path, tree), filepath.Join(to, tree)); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, data)
}

// copyTree copies the files that do not exist yet: if two directories have a trial,
// its files are, like its rows, those of the first.
func copyTree(from, to string) error {
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || durable.IsTemp(e.Name()) {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return makeDir(target)
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is not a regular file", path)
		case exists(target):
			return nil
		}
		return copyFile(path, target)
	})
	if errors.Is(err, fs.ErrNotExist) && !exists(from) {
		return nil
	}
	return err
}
