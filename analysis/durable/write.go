// Package durable writes files that are there whole or not at all, also after a crash of
// the computer, and holds locks that end with their process. Everything of hookbed that
// replaces a file or locks one does it here. Linux; standard library only.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempPrefix begins the names of files that are not whole yet.
const tempPrefix = ".tmp-"

// IsTemp says whether a name is one that a writer gives a file, or TempDir a directory,
// until it is whole. A writer that was killed leaves it behind.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// IsTempOf says whether a name is that of a file which was to replace the one called base.
func IsTempOf(name, base string) bool { return strings.HasPrefix(name, tempStem(base)) }

// tempStem is the name of a temporary file without its random end. File systems allow
// 255 bytes.
func tempStem(base string) string { return tempPrefix + base[:min(len(base), 200)] + "-" }

// TempDir makes a directory of mode 0700 next to path, for Rename to put in its place. The
// caller removes it.
func TempDir(path string) (string, error) {
	return os.MkdirTemp(filepath.Dir(path), tempStem(filepath.Base(path))+"*")
}

// WriteFile makes or replaces a file with exactly these permissions, whatever the umask.
// Readers see the old file or the new one. When it returns nil, the new one survives a
// crash. An error before the rename leaves the old file as it was and no temporary one.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Write(path, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// Write is WriteFile of what fill writes. fill must not close the file; its error is
// returned as it is.
func Write(path string, perm fs.FileMode, fill func(f *os.File) error) error {
	f, err := lockedTemp(path)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncDir(filepath.Dir(path))
}

// Rename gives a finished file or directory its place, on the same file system. A file is
// synced first; what is in a directory is the caller's to sync.
func Rename(from, to string) error {
	if err := syncFile(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir makes the names in a directory survive a crash.
func SyncDir(dir string) error { return syncFile(dir) }

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// OnlyOurs refuses a directory that every user may write to: any of them could put files there that
// this process would trust.
func OnlyOurs(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && st.Mode().Perm()&0o002 != 0 {
		err = fmt.Errorf("every user may write to %s (%s): take that away by chmod o-w, or use another directory", dir, st.Mode())
	}
	return err
}

// NoRoom says whether an error is that of a full disk, or of a quota that is used up.
func NoRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Overwrite replaces the content of a file in the room that it has already, for a disk that is full.
// A crash of the computer meanwhile may leave a mixture of both. The error is ENOSPC where the file
// has less room than data takes, and then it is as it was.
func Overwrite(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	const unit = 512 // of st_blocks (stat(2))
	if int64(len(data)) > st.Blocks*unit {
		return &os.PathError{Op: "overwrite", Path: path, Err: syscall.ENOSPC}
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(len(data))), f.Sync())
}
