package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Temporaries are locked by the process that makes them, so that those of a killed one can be
// removed and those of one at work are not.

// lockedTemp makes the temporary file of path.
func lockedTemp(path string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(path), tempStem(filepath.Base(path))+"*")
		if err != nil {
			return nil, err
		}
		_ = flock(f) // a file system without locks has no sweeping either
		if current(f, f.Name()) {
			return f, nil
		}
		_ = f.Close() // it was swept before it was locked
	}
}

// SweepTemps removes the temporary files and directories that killed processes left of path. What
// cannot be removed stays, and costs only space.
func SweepTemps(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if IsTempOf(e.Name(), filepath.Base(path)) {
			removeLeft(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}

// Scratch makes a directory of mode 0700 for temporary files, hookbed-KIND-..., in the system's
// directory for such, and removes those of the kind that killed processes of this user left there.
// The caller calls remove.
func Scratch(kind string) (dir string, remove func() error, err error) {
	stem := "hookbed-" + kind + "-"
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), stem+"*")) // the pattern is right
	for _, l := range left {
		removeLeft(l)
	}
	for {
		if dir, err = os.MkdirTemp("", stem); err != nil {
			return "", nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was swept before it was locked
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(dir))
		}
		if _ = flock(f); current(f, dir) {
			return dir, func() error { return errors.Join(os.RemoveAll(dir), f.Close()) }, nil
		}
		_ = f.Close()
	}
}

// removeLeft removes a temporary file or directory of this user that no process has locked.
func removeLeft(path string) {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() && !st.Mode().IsRegular() {
		return
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if flock(f) == nil && current(f, path) {
		_ = os.RemoveAll(path)
	}
}
