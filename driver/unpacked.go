package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/durable"
	"hookbed/analysis/pack"
)

// unpacked are the run directories of arguments that name directories, or files that `driver pack`
// made: those are unpacked into a temporary directory, under the names of their runs, and their
// digests checked. done removes it.
func unpacked(args []string) (dirs []string, done func(), err error) {
	dirs, done = slices.Clone(args), func() {}
	base := ""
	for i, arg := range args {
		if info, err := os.Stat(arg); err != nil || !info.Mode().IsRegular() {
			continue // a directory, or what its reader says is missing
		}
		if base == "" {
			var remove func() error
			if base, remove, err = durable.Scratch("pack"); err != nil {
				return nil, done, fmt.Errorf("unpack %s: %w", arg, err)
			}
			done = func() { _ = remove() } // what stays, the next call removes
		}
		dirs[i] = filepath.Join(base, strconv.Itoa(i+1), strings.TrimSuffix(filepath.Base(arg), pack.Extension))
		if err := os.MkdirAll(filepath.Dir(dirs[i]), 0o755); err != nil {
			done()
			return nil, func() {}, fmt.Errorf("unpack %s: %w", arg, err)
		}
		if _, err := pack.Open(arg, dirs[i]); err != nil {
			done()
			return nil, func() {}, err
		}
	}
	return dirs, done, nil
}
