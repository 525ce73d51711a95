package rundir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"hookbed/analysis/durable"
)

// traceDir has a directory for each traced cell, by its ID, and what compares them. Package
// analysis/trace writes and reads it.
const (
	traceDir  = "trace"
	traceFile = "trace.json" // in each cell's: what else may be there is no trace of instructions
)

// Traced says of which cells there are traces.
func (d *Dir) Traced() (map[string]bool, error) {
	path := filepath.Join(d.path, traceDir)
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, storageError("read", path, 0, err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		_, known := d.plan.CellByID(e.Name())
		if known && exists(filepath.Join(path, e.Name(), traceFile)) {
			out[e.Name()] = true
		}
	}
	return out, nil
}

// DropTrace removes the trace of a cell, if it is there.
func (d *Dir) DropTrace(cell string) error {
	path := filepath.Join(d.path, traceDir, filepath.Base(cell))
	if err := os.RemoveAll(path); err != nil {
		return storageError("clear", path, 0, err)
	}
	return nil
}

// sweepTraces removes the unfinished traces of a driver that was killed.
func (d *Dir) sweepTraces() (err error) {
	dir := filepath.Join(d.path, traceDir)
	entries, _ := os.ReadDir(dir) // most runs have none
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
