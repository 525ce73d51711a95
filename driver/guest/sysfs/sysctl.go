package sysfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SysctlPath is the file of a key written with dots or with slashes; the
// latter is for interface names with dots in them.
func SysctlPath(key string) (string, error) {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("sysctl key %q leads out of /proc/sys", key)
	}
	return filepath.Join("/proc/sys", path), nil
}

// WriteSysctl writes a value in one write call, and never makes the file.
func WriteSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}
