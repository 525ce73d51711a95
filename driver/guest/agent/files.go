package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
	"hookbed/driver/marker"
)

// imagePattern is how the driver names what it puts among the images.
var imagePattern = regexp.MustCompile(`^(endpoint|peers|http)-[0-9a-f]{16}(\.new)?$`)

// removeFiles removes this run's directory, those that killed runs left, and,
// where nothing is to be kept for the next run, all the rest that is ours. Other
// files stay, and so does the directory around them.
func (a *agent) removeFiles() error {
	if !marker.Has(a.Dir, a.Token) {
		return errors.Join(a.removeRun(a.Run), fmt.Errorf("%s has lost its marker (%s): what else is in it is left alone", a.Dir, marker.File))
	}
	var errs []error
	entries, err := os.ReadDir(a.Dir)
	if err != nil {
		return errors.Join(a.removeRun(a.Run), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), RunPrefix) && time.Since(info.ModTime()) > staleRun {
			errs = append(errs, a.removeRun(e.Name()))
		}
		if durable.IsTempOf(e.Name(), journalFile) {
			errs = append(errs, os.Remove(filepath.Join(a.Dir, e.Name()))) // an attendant was killed as it wrote
		}
	}
	if !a.Cache {
		errs = append(errs, removeImages(filepath.Join(a.Dir, imagesDir)))
	}
	// Its own directory last: while that is there, the supervisor knows that not all is done.
	return errors.Join(append(errs, a.removeRun(a.Run), a.removeDir())...)
}

// removeRun removes the directory of a run that carries the token, and no other.
func (a *agent) removeRun(name string) error {
	dir := filepath.Join(a.Dir, name)
	if !marker.Has(dir, a.Token) {
		return nil
	}
	return os.RemoveAll(dir)
}

// removeImages removes the images that the driver put in a directory, and the
// directory where nothing else is in it.
func removeImages(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return nil // a link, which is not ours
	}
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		if imagePattern.MatchString(e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, removeEmpty(dir))...)
}

// removeDir removes lock, marker and, if it was made with the marker, the directory
// itself, when nothing else is in it: another run may be waiting for the lock, and a
// journal that is still there is of a NIC that did not come back.
func (a *agent) removeDir() error {
	entries, err := os.ReadDir(a.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != marker.File {
			return nil
		}
	}
	m, err := marker.Of(a.Dir)
	if err != nil {
		return err
	}
	// The marker after the lock: what has a lock and no marker would be refused.
	for _, name := range []string{lockFile, marker.File} {
		if err := os.Remove(filepath.Join(a.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !m.Made {
		return nil
	}
	return removeEmpty(a.Dir)
}

// removeEmpty removes a directory unless something is in it.
func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
