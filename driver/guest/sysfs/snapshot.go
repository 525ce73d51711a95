package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sysctls are the values of the sysctls of a network namespace that can be changed, by file.
type Sysctls map[string]string

// NoteSysctls reads those of the calling thread's namespace.
func NoteSysctls() (Sysctls, error) {
	s := Sysctls{}
	err := filepath.WalkDir("/proc/sys/net", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		if info, err := e.Info(); err != nil || info.Mode()&0o200 == 0 {
			return ignoreGone(err)
		}
		if data, err := os.ReadFile(path); err == nil { // some are write-only
			s[path] = strings.TrimSpace(string(data))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("note the sysctls: %w", err)
	}
	return s, nil
}

// ignoreGone takes the end of a link, whose sysctls go with it, for no error.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Restore writes the values of s that have changed since. Sysctls that are gone stay so.
func (s Sysctls) Restore() error {
	now, err := NoteSysctls()
	if err != nil {
		return err
	}
	var errs []error
	for path, value := range s {
		if got, ok := now[path]; ok && got != value {
			errs = append(errs, WriteSysctl(path, value))
		}
	}
	return errors.Join(errs...)
}
