package trace

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"hookbed/analysis/durable"
)

// Bounds of what Read takes, which real traces are far below.
const (
	fileMost  = 256 << 20 // bytes of one file
	nodesMost = 4_000_000 // nodes of one tree, and calls of one path
	cellsMost = 10_000
)

// Read reads the traces of a run directory, in the order of the cells' IDs. A run without traces
// has none, and a directory without any file that Read needs holds none. The sums of each trace are checked.
func Read(runDir string) ([]Trace, error) {
	entries, err := os.ReadDir(filepath.Join(runDir, Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read traces: %w", err)
	}
	var out []Trace
	for _, e := range entries {
		if !e.IsDir() || e.Name() == diffDir || durable.IsTemp(e.Name()) {
			continue
		}
		if len(out) == cellsMost {
			return nil, fmt.Errorf("read traces: %s has more than %d", filepath.Join(runDir, Dir), cellsMost)
		}
		if !holdsTrace(filepath.Join(runDir, Dir, e.Name())) {
			continue // an order of calls, without costs
		}
		t, err := readCell(filepath.Join(runDir, Dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read traces: %w", err)
		}
		if t.Cell != e.Name() {
			return nil, fmt.Errorf("read traces: %s is of cell %q; it must be in a directory of that name", filepath.Join(runDir, Dir, e.Name(), metaFile), t.Cell)
		}
		out = append(out, t)
	}
	return out, nil
}

// holdsTrace says whether a directory has any of the files that a trace is read from.
func holdsTrace(dir string) bool {
	for _, name := range []string{metaFile, treeFile, callsFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// reader reads one of the files that a trace is made from. The first one makes the trace.
type reader struct {
	name string
	read func(io.Reader, *Trace) error
}

func readers() []reader {
	return []reader{{metaFile, readMeta}, {treeFile, readTree}, {callsFile, readCalls}}
}

// readCell reads one trace from its directory.
func readCell(dir string) (t Trace, err error) {
	for _, f := range readers() {
		if err := opened(filepath.Join(dir, f.name), func(r io.Reader) error { return f.read(r, &t) }); err != nil {
			return Trace{}, err
		}
	}
	if err := t.check(); err != nil {
		return Trace{}, fmt.Errorf("%s: %w; trace the cell again", dir, err)
	}
	return t, nil
}

// opened calls read with a regular file of at most fileMost bytes.
func opened(path string, read func(io.Reader) error) (err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case st.Size() > fileMost:
		return fmt.Errorf("%s has %d bytes, more than %d", path, st.Size(), fileMost)
	}
	if err := read(io.LimitReader(f, fileMost)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func readMeta(r io.Reader, t *Trace) error {
	var m meta
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		return err
	}
	if m.Schema != schema {
		return fmt.Errorf("it has schema %d; this hookbed reads %d", m.Schema, schema)
	}
	if m.Units < 0 {
		return fmt.Errorf("it has %v units", m.Units)
	}
	*t = m.Trace
	p := m.Path
	t.Path = Path{Instructions: p.Instructions, Units: p.Units, Same: p.Same, Paths: p.Paths, Least: p.Least, Most: p.Most}
	if len(p.Others) > 0 {
		t.Path.Others = p.Others
	}
	return nil
}

// eachLine calls line for each record of a CSV file after its header, which must be as given.
func eachLine(r io.Reader, header []string, line func([]string) error) error {
	c := csv.NewReader(r)
	c.FieldsPerRecord, c.ReuseRecord = len(header), true
	for n := 0; ; n++ {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 {
			for i, want := range header {
				if fields[i] != want {
					return fmt.Errorf("column %d is %q, want %q", i+1, fields[i], want)
				}
			}
			continue
		}
		if n > nodesMost {
			return fmt.Errorf("more than %d lines", nodesMost)
		}
		if err := line(fields); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
	}
}

func readTree(r io.Reader, t *Trace) error {
	return eachLine(r, []string{"part", "parent", "function", "self", "calls"}, func(f []string) error {
		to := map[string]*Tree{partMeasured: &t.Measured, partAround: &t.Around}[f[0]]
		if to == nil {
			return fmt.Errorf("part %q is neither %q nor %q", f[0], partMeasured, partAround)
		}
		n := Node{Name: f[2]}
		var errs [3]error
		n.Parent, errs[0] = strconv.Atoi(f[1])
		n.Self, errs[1] = strconv.ParseUint(f[3], 10, 64)
		n.Calls, errs[2] = strconv.ParseUint(f[4], 10, 64)
		to.Nodes = append(to.Nodes, n)
		return errors.Join(errs[:]...)
	})
}

func readCalls(r io.Reader, t *Trace) error {
	var open []*Call // from depth 0 to the last call
	return eachLine(r, callColumns(), func(f []string) error {
		c := &Call{Name: f[1]}
		var errs [4]error
		var depth int
		depth, errs[0] = strconv.Atoi(f[0])
		c.Self, errs[1] = strconv.ParseUint(f[2], 10, 64)
		c.Total, errs[2] = strconv.ParseUint(f[3], 10, 64)
		c.Resumed, errs[3] = strconv.ParseBool(f[4])
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		if depth < 0 || depth > len(open) || depth > depthMost {
			return fmt.Errorf("depth %d after depth %d", depth, len(open)-1)
		}
		open = append(open[:depth], c)
		if depth == 0 {
			t.Path.Calls = append(t.Path.Calls, c)
			return nil
		}
		open[depth-1].Calls = append(open[depth-1].Calls, c)
		return nil
	})
}
