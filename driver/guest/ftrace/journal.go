package ftrace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hookbed/analysis/durable"
)

// Journals are files of a directory that begins anew with each boot, as tracefs does.
const (
	journals      = "/run"
	journalPrefix = "hookbed-tracefs-"
)

// journal is a file that says what a recording found in tracefs, a line for each file that it then
// changed, oldest first. The recording holds a lock on it, which ends with its process: what a
// journal without a lock says is still to be put back.
type journal struct {
	lock *durable.Lock
	file *os.File
}

// openJournal begins the journal of a recording of this process.
func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("note what is changed of tracefs: %w", err)
	}
	path := filepath.Join(dir, journalPrefix+strconv.Itoa(os.Getpid()))
	lock, err := durable.TryLock(path, 0o600)
	if err != nil {
		return nil, fmt.Errorf("note what is changed of tracefs: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note what is changed of tracefs: %w", err), lock.Unlock())
	}
	return &journal{lock, file}, nil
}

// note adds what a file holds that is about to be changed.
func (j *journal) note(s setting) error {
	line, err := json.Marshal([]string{s.file, s.value})
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note what %s of tracefs holds: %w", s.file, err)
	}
	return nil
}

// end removes the journal: everything is put back.
func (j *journal) end() error {
	return errors.Join(os.Remove(j.file.Name()), j.file.Close(), j.lock.Unlock())
}

// parseJournal reads a journal. A last line without an end is of a change that was not made.
func parseJournal(text string) (found []setting, err error) {
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var s []string
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			return nil, err
		}
		if len(s) != 2 {
			return nil, fmt.Errorf("%q has %d parts, want a file and what it held", line, len(s))
		}
		found = append(found, setting{s[0], s[1]})
	}
	return found, nil
}

// Pending says whether a recording on this machine has changes to put back, be it at work or killed.
func Pending() bool {
	found, _ := filepath.Glob(filepath.Join(journals, journalPrefix+"*"))
	return len(found) > 0
}

// Recover puts back what recordings changed whose processes were killed before they could, and
// removes their instances. Where nothing is to be put back it does nothing.
func Recover() error {
	if !initialPIDs() || !Pending() {
		return nil
	}
	t, err := openTree()
	if err != nil {
		return err
	}
	err = t.putBack()
	t.sweep()
	return errors.Join(err, t.Close())
}

// putBack puts back what the journals without a lock say.
func (t *tree) putBack() error {
	found, err := filepath.Glob(filepath.Join(t.journals, journalPrefix+"*"))
	for _, path := range found {
		if e := t.putBackOf(path); e != nil {
			err = errors.Join(err, fmt.Errorf("put back what a recording that was killed left in tracefs, by %s: %w", path, e))
		}
	}
	return err
}

func (t *tree) putBackOf(path string) error {
	lock, err := durable.TryLock(path, 0)
	if errors.Is(err, durable.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		return nil // at work, or just over
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	var found []setting
	if err == nil {
		found, err = parseJournal(string(text))
	}
	left := settings{t: t}
	for _, s := range found {
		if t.has(s.file) { // an instance may be gone
			left.found = append(left.found, s)
		}
	}
	return errors.Join(err, left.restore(), os.Remove(path), lock.Unlock())
}
