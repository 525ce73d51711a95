package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"hookbed/analysis/durable"
)

// Attempt is one start of a task.
type Attempt struct {
	Host  string    `json:"host"`
	QEMU  string    `json:"qemu,omitempty"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"` // zero: it runs, or it was killed
	Exit  int       `json:"exit"`           // of one that ended
	Error string    `json:"error,omitempty"`
}

// record is the content of status/I.json.
type record struct {
	Task     int       `json:"task"`
	Attempts []Attempt `json:"attempts"`
}

func (d Dir) statusFile(task int) string {
	return filepath.Join(d.Path, "status", strconv.Itoa(task)+".json")
}

// Attempts are those at a task, the first one first.
func (d Dir) Attempts(task int) ([]Attempt, error) {
	var r record
	if err := readJSON(d.statusFile(task), &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r.Attempts, nil
}

// Begin records that a task begins here, and returns the number of the attempt.
func (d Dir) Begin(task int, a Attempt) (n int, err error) {
	err = d.change(task, func(all []Attempt) []Attempt {
		n = len(all)
		return append(all, a)
	})
	return n, err
}

// End records how an attempt ended.
func (d Dir) End(task, n int, a Attempt) error {
	return d.change(task, func(all []Attempt) []Attempt {
		if n < len(all) {
			all[n] = a
		}
		return all
	})
}

// change rewrites the attempts at a task. Two of them may be at work: a batch system starts a task
// again whose computer it has lost.
func (d Dir) change(task int, change func([]Attempt) []Attempt) error {
	l, err := durable.TryLock(d.statusFile(task)+".lock", 0o644)
	for tries := 0; errors.Is(err, durable.ErrHeld) && tries < 500; tries++ {
		time.Sleep(20 * time.Millisecond)
		l, err = durable.TryLock(d.statusFile(task)+".lock", 0o644)
	}
	if err != nil {
		return fmt.Errorf("record the attempts at task %d: %w", task, err)
	}
	defer l.Unlock() //nolint:errcheck // the lock ends with the file
	all, err := d.Attempts(task)
	if err != nil {
		return err
	}
	return writeRoomless(d.statusFile(task), record{Task: task, Attempts: change(all)})
}

// writeRoomless is writeJSON that needs no room where a file is there already: why a task ended is to
// be seen also where the reason is a full disk.
func writeRoomless(path string, v any) error {
	err := writeJSON(path, v)
	if !durable.NoRoom(err) {
		return err
	}
	data, merr := json.Marshal(v)
	if merr != nil || durable.Overwrite(path, append(data, '\n')) != nil {
		return err
	}
	return nil
}

// machine is what numbers of virtual time depend on that is not in the job's directory.
type machine struct {
	Host string `json:"host"`
	QEMU string `json:"qemu"`
}

// Agree compares this computer with that of the first task. The error wraps ErrMachine and names
// both.
func (d Dir) Agree(host, qemu string) error {
	path, first := d.file("machine.json"), machine{}
	err := readJSON(path, &first)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.settle(path, machine{host, qemu}); err != nil {
			return err
		}
		err = readJSON(path, &first)
	}
	if err != nil {
		return err
	}
	if first.QEMU != qemu {
		return fmt.Errorf("%w: %s has QEMU %s, and %s, where the first task ran, has %s; numbers of both cannot be merged, so run this task on a computer with QEMU %s (Slurm: `driver submit --resume %s -- --exclude=%s`)",
			ErrMachine, host, qemu, first.Host, first.QEMU, first.QEMU, d.Path, host)
	}
	return nil
}

// settle writes a file unless another task was first.
func (d Dir) settle(path string, m machine) error {
	temp := path + "." + m.Host + "." + strconv.Itoa(os.Getpid())
	if err := writeJSON(temp, m); err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
