package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
)

// ErrStorage is wrapped by every failure to keep results: a full disk, a
// quota, an I/O error. The run cannot continue; what was recorded is safe.
var ErrStorage = errors.New("results cannot be kept")

// StorageError is a write that failed.
type StorageError struct {
	Op   string // "append to", "write", ...
	Path string
	Want int    // bytes to be written, 0 if unknown
	Free uint64 // bytes free on the file system of Path
	Err  error
}

func (e *StorageError) Error() string {
	msg := fmt.Sprintf("%s %s: %v", e.Op, e.Path, rootCause(e.Err))
	if durable.NoRoom(e.Err) {
		msg += fmt.Sprintf(" (%d bytes wanted, %d free)", e.Want, e.Free)
	}
	return msg
}

// Unwrap makes errors.Is find ErrStorage and the system's error.
func (e *StorageError) Unwrap() []error { return []error{ErrStorage, e.Err} }

// rootCause drops the path that an os error repeats.
func rootCause(err error) error {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

func storageError(op, path string, want int, err error) error {
	return &StorageError{Op: op, Path: path, Want: want, Free: freeSpace(filepath.Dir(path)), Err: err}
}

// freeSpace is the number of bytes that an ordinary user may still write; 0 if it is
// not known.
func freeSpace(dir string) uint64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return st.Bavail * uint64(st.Bsize)
}

// writeFile puts a file in place whole or not at all.
func writeFile(path string, data []byte) error {
	if err := durable.WriteFile(path, data, 0o644); err != nil {
		return storageError("write", path, len(data), err)
	}
	return nil
}

// makeDir makes a directory and what is missing above it, and syncs their
// entries.
func makeDir(path string) error {
	_, err := makeDirs(path)
	return err
}

// makeDirs is makeDir; made are the directories that were missing, outermost first.
func makeDirs(path string) (made []string, err error) {
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return nil, fmt.Errorf("%s is not a directory", path)
		}
		return nil, nil
	}
	parent := filepath.Dir(filepath.Clean(path))
	if made, err = makeDirs(parent); err != nil {
		return made, err
	}
	err = os.Mkdir(path, 0o755)
	if err == nil {
		made = append(made, path)
		err = durable.SyncDir(parent)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return made, storageError("make", path, 0, err)
	}
	return made, nil
}
