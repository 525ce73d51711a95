package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctlPath is the file of a key written with dots or with slashes; the
// latter is for interface names with dots in them.
func sysctlPath(key string) (string, error) {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("sysctl key %q leads out of /proc/sys", key)
	}
	return filepath.Join("/proc/sys", path), nil
}

// writeSysctl writes a value in one write call, and never makes the file.
func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}
