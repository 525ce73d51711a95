package rundir

import (
	"errors"
	"os"
	"path/filepath"

	"hookbed/analysis/durable"
)

// traceDir has a directory for each traced cell, by its ID, and what compares them. Package
// analysis/trace writes and reads it.
const traceDir = "trace"

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
