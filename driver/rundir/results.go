package rundir

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"hookbed/analysis/durable"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

// WriteEnv records the environment as JSON, before the first packet: env.json
// for the process that began the run, env-2.json and so on for those that
// resumed it.
func (d *Dir) WriteEnv(env any) error {
	d.env = filepath.Join(d.path, "env.json")
	for n := 2; exists(d.env); n++ {
		d.env = filepath.Join(d.path, fmt.Sprintf("env-%d.json", n))
	}
	return d.RewriteEnv(env)
}

// RewriteEnv replaces the file that WriteEnv wrote last.
func (d *Dir) RewriteEnv(env any) error {
	data, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return fmt.Errorf("encode environment: %w", err)
	}
	return writeFile(d.env, append(data, '\n'))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// AppendRows records all rows of one trial, and the row that closes it: one write, then fsync. If the trial
// failed in an earlier attempt, its old rows move to rows-superseded.csv. After
// an error rows.csv is as it was before. A failed write wraps ErrStorage.
func (d *Dir) AppendRows(rows []record.Row) error {
	key, err := d.trialOf(rows)
	if err != nil {
		return fmt.Errorf("append rows: %w", err)
	}
	data, err := record.Encode(d.factors, rows)
	if err != nil {
		return fmt.Errorf("append rows: %w", err)
	}
	if _, again := d.status[key]; again {
		err = d.supersede(key, data)
	} else {
		err = d.append(data)
	}
	if err != nil {
		return err
	}
	d.status[key], d.reason[key] = rows[0].Status, rows[0].Reason
	for _, r := range rows {
		d.note(r)
	}
	delete(d.raw, key)
	return nil
}

// trialOf checks that rows are those of one trial that may still be recorded.
func (d *Dir) trialOf(rows []record.Row) (Key, error) {
	if len(rows) == 0 {
		return Key{}, errors.New("a trial has at least one row")
	}
	first := rows[0]
	key := Key{first.Cell, first.Block, first.Trial}
	if !d.trials[key] {
		return key, fmt.Errorf("cell %s, block %d, trial %d is not in the plan", key.Cell, key.Block, key.Trial)
	}
	if s := d.status[key]; final(s) {
		return key, fmt.Errorf("cell %s, block %d, trial %d is recorded already, as %s", key.Cell, key.Block, key.Trial, s)
	}
	for _, r := range rows[1:] {
		if keyOfRow(r) != key || r.Status != first.Status || r.Reason != first.Reason || r.Run != first.Run || r.Order != first.Order || !maps.Equal(r.Factors, first.Factors) {
			return key, errors.New("rows are of more than one trial or status")
		}
	}
	return key, nil
}

func (d *Dir) append(data []byte) error {
	_, err := d.rows.Write(data)
	if err == nil {
		err = d.rows.Sync()
	}
	if err != nil {
		// Remove what was written: half a trial must not stay.
		err = errors.Join(err, d.rows.Truncate(d.size))
		return storageError("append to", d.rows.Name(), len(data), err)
	}
	d.size += int64(len(data))
	return nil
}

// supersede replaces the rows of one trial. The old ones are safe in the other
// file before rows.csv is replaced.
func (d *Dir) supersede(key Key, data []byte) error {
	path := filepath.Join(d.path, rowsFile)
	var old []byte
	err := eachTrial(path, func(t *record.Trial) error {
		if keyOfRow(t.Rows[0]) == key {
			old = append(old, t.Lines...)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := d.keepSuperseded(old); err != nil {
		return err
	}
	size, err := d.replaceRows(path, key, data)
	if err != nil {
		return storageError("write", path, len(data), err)
	}
	return d.reopenRows(size)
}

// replaceRows writes rows.csv again with new rows, at the end, in place of those of a trial.
func (d *Dir) replaceRows(path string, key Key, data []byte) (size int64, err error) {
	return size, durable.Write(path, 0o644, func(f *os.File) error {
		out := bufio.NewWriter(f)
		write := func(b []byte) error {
			n, err := out.Write(b)
			size += int64(n)
			return err
		}
		if err := write(record.EncodeHeader(d.factors)); err != nil {
			return err
		}
		err := eachTrial(path, func(t *record.Trial) error {
			if keyOfRow(t.Rows[0]) == key {
				return nil
			}
			return write(t.Lines)
		})
		return errors.Join(err, write(data), out.Flush())
	})
}

// eachTrial calls a function for the trials of a file of rows, which must be whole.
func eachTrial(path string, do func(*record.Trial) error) error {
	f, err := runs.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := record.NewReader(f)
	reader.Repeats = filepath.Base(path) == supersededFile
	for {
		t, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF) && reader.Torn() != nil:
			return reader.Torn()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := do(t); err != nil {
			return err
		}
	}
}

func (d *Dir) keepSuperseded(old []byte) error {
	path := filepath.Join(d.path, supersededFile)
	data, err := runs.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = record.EncodeHeader(d.factors), nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return writeFile(path, append(data, old...))
}

// SaveRaw keeps one raw file of a trial, synced, and returns its path relative
// to the run directory. Save all raw files of a trial before its rows.
func (d *Dir) SaveRaw(cell string, block, trial int, name string, data []byte) (rel string, err error) {
	key := Key{cell, block, trial}
	if !d.trials[key] {
		return "", fmt.Errorf("save raw file: cell %s, block %d, trial %d is not in the plan", cell, block, trial)
	}
	if name != filepath.Base(name) || !filepath.IsLocal(name) || name == "." || durable.IsTemp(name) {
		return "", fmt.Errorf("save raw file: %q is not a plain file name", name)
	}
	dir, err := d.rawOf(key)
	if err != nil {
		return "", err
	}
	rel = filepath.Join(dir, name)
	if err := writeFile(filepath.Join(d.path, rel), data); err != nil {
		return "", err
	}
	return rel, nil
}

// rawOf is the raw directory of the current attempt. An earlier attempt that has
// rows keeps its raw files; those of one that was killed before it had rows are
// removed, so that files of two attempts never mix.
func (d *Dir) rawOf(key Key) (string, error) {
	if dir, ok := d.raw[key]; ok {
		return dir, nil
	}
	first := filepath.Join(rawDir, key.Cell, strconv.Itoa(key.Block)+"-"+strconv.Itoa(key.Trial))
	dir := first
	if _, again := d.status[key]; again {
		for n := 2; exists(filepath.Join(d.path, dir)); n++ {
			dir = fmt.Sprintf("%s-%d", first, n)
		}
	}
	path := filepath.Join(d.path, dir)
	if err := os.RemoveAll(path); err != nil {
		return "", storageError("clear", path, 0, err)
	}
	if err := makeDir(path); err != nil {
		return "", err
	}
	d.raw[key] = dir
	return dir, nil
}
