package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"hookbed/analysis/durable"
)

// Entry is one artifact in the store.
type Entry struct {
	Name    string   `json:"name"`   // "root", "endpoint", "peers", "http", "kernel-6.12"
	Inputs  string   `json:"inputs"` // SHA-256 over recipe and packages
	Dir     string   `json:"dir"`
	Outputs []Output `json:"outputs"`
	Drift   []Drift  `json:"drift,omitempty"`
	Current bool     `json:"current"` // made from this program's locks and recipes

	manifest Manifest
}

// Size is the sum of the entry's files in bytes.
func (e Entry) Size() int64 {
	var n int64
	for _, o := range e.Outputs {
		n += o.Size
	}
	return n
}

// List is every finished artifact, sorted by directory name.
func (s *Store) List() ([]Entry, error) {
	dirs, err := os.ReadDir(s.artifacts())
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	current, err := s.current()
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, d := range dirs {
		dir := filepath.Join(s.artifacts(), d.Name())
		m, err := readManifest(dir)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		out = append(out, Entry{Name: m.Name, Inputs: m.Inputs, Dir: dir, Outputs: m.Outputs, Drift: m.Drift,
			Current: slices.Contains(current, m.Inputs), manifest: m})
	}
	return out, nil
}

// allRecipes is every artifact this program can make.
func allRecipes() []recipe {
	out := []recipe{rootRecipe(), endpointRecipe(), externalRecipe(), httpRecipe(), etcdRecipe(), compilerRecipe()}
	for _, k := range append(Kernels(), Versions()...) {
		out = append(out, kernelRecipe(k))
	}
	return out
}

// current lists the inputs digests of this program's own recipes.
func (s *Store) current() ([]string, error) {
	var out []string
	for _, r := range allRecipes() {
		l, err := s.readLock(r.name)
		if err != nil {
			return nil, err
		}
		out = append(out, r.inputs(l.Packages, l.Snapshot))
	}
	return out, nil
}

// GC removes what this program does not need: artifacts of other locks or
// recipes (but not those whose inputs digest starts with one of keep),
// packages that no remaining artifact or lock names, and leftovers of builds
// that were killed. It returns the paths it removed. What another process is
// building is left alone.
func (s *Store) GC(ctx context.Context, keep ...string) (removed []string, err error) {
	entries, err := s.List()
	if err != nil {
		return nil, err
	}
	used, err := s.lockedDebs()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		kept := e.Current || slices.ContainsFunc(keep, func(k string) bool { return k != "" && strings.HasPrefix(e.Inputs, k) })
		if kept {
			for _, p := range e.manifest.Packages {
				used[p.SHA256+".deb"] = true
			}
			continue
		}
		if err := os.RemoveAll(e.Dir); err != nil {
			return removed, err
		}
		removed = append(removed, e.Dir)
	}
	gone, err := s.gcDebs(ctx, used)
	removed = append(removed, gone...)
	stale, err2 := s.gcTemps()
	return append(removed, stale...), errors.Join(err, err2)
}

// lockedDebs is the file names of the packages in this program's locks.
func (s *Store) lockedDebs() (map[string]bool, error) {
	used := map[string]bool{}
	for _, r := range allRecipes() {
		l, err := s.readLock(r.name)
		if err != nil {
			return nil, err
		}
		for _, p := range l.Packages {
			used[p.SHA256+".deb"] = true
		}
	}
	return used, nil
}

// debPattern is what this program puts among the packages: one by its digest, or a
// download that was killed.
var debPattern = regexp.MustCompile(`^([0-9a-f]{64}\.deb|part\..*)$`)

func (s *Store) gcDebs(ctx context.Context, used map[string]bool) (removed []string, err error) {
	unlock, err := s.lock(ctx, debsLock)
	if err != nil {
		return nil, err
	}
	defer unlock()
	files, err := os.ReadDir(s.debDir())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if used[f.Name()] || !debPattern.MatchString(f.Name()) {
			continue // needed, or not made by this program
		}
		file := filepath.Join(s.debDir(), f.Name())
		if err := os.RemoveAll(file); err != nil {
			return removed, err
		}
		removed = append(removed, file)
	}
	return removed, nil
}

// gcTemps removes the temporary directories whose builder is gone: it would
// hold the lock of the same name.
func (s *Store) gcTemps() (removed []string, err error) {
	dirs, err := os.ReadDir(s.tempDir())
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		l, err := durable.TryLock(filepath.Join(s.lockDir(), d.Name()), 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrHeld) {
			continue // a builder makes its lock first, so what has none was made by another program
		}
		if err != nil {
			return removed, err
		}
		dir := filepath.Join(s.tempDir(), d.Name())
		if err := errors.Join(os.RemoveAll(dir), l.Unlock()); err != nil {
			return removed, err
		}
		removed = append(removed, dir)
	}
	return removed, nil
}
