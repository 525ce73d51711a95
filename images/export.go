package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
)

// onlyReadable says whether a directory is there and this process may not write to it.
func onlyReadable(dir string) bool {
	err := unix.Access(dir, unix.W_OK)
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS)
}

// checkOf holds an artifact of a store that belongs to another user against the lock, and reads
// every file of it.
func (m Manifest) checkOf(dir string, r recipe, l Lock) error {
	if m.Inputs != r.inputs(l.Packages, l.Snapshot) || !slices.Equal(m.Packages, l.Packages) {
		return fmt.Errorf("check image %s: it is not made of what the lock %s.lock names", dir, r.name)
	}
	for _, o := range m.Outputs {
		sum, _, err := hashFile(filepath.Join(dir, o.Name))
		if err != nil {
			return fmt.Errorf("check image %s: %w", dir, err)
		}
		if sum != o.SHA256 {
			return fmt.Errorf("check image %s: the SHA-256 of %s is %s, not %s as when it was built: ask the owner of the store to build it again", dir, o.Name, sum, o.SHA256)
		}
	}
	return nil
}

// ensureFor is ensure for what is wanted. file is what the artifact has in addition to
// what sealed guests boot.
func (s *Store) ensureFor(ctx context.Context, r recipe, want Want, file string) (Manifest, string, error) {
	m, dir, err := s.ensure(ctx, r)
	if err == nil && !want.Sealed && m.artifact(dir, file).Name == "" {
		return m, "", fmt.Errorf("image %s has only what guests in virtual time boot: give another store, or remove %s to have it built again", dir, dir)
	}
	return m, dir, err
}

// wanted is verified for a file of what is wanted: sealed guests do not boot those that are no
// sealedFiles, and a store of Export does not have them.
func (m Manifest) wanted(want Want, dir, name string, l Lock) (Artifact, error) {
	if want.Sealed && !slices.Contains(sealedFiles(), name) {
		return m.artifact(dir, name), nil
	}
	return m.verified(dir, name, l)
}

// wantedDir is verifiedDir likewise.
func (m Manifest) wantedDir(want Want, dir string) (string, error) {
	if want.Sealed {
		return "", nil
	}
	return m.verifiedDir(dir)
}

// sealedFiles are the files of an artifact that sealed guests boot.
func sealedFiles() []string {
	return []string{kernelFile, sealedModulesFile, sealedModulesHTTP, sealedToolsFile, sealedEndpointFile, sealedExternalFile, sealedHTTPFile}
}

// sealedOnly says whether the artifact was made by Export.
func (m Manifest) sealedOnly() bool {
	return !slices.ContainsFunc(m.Outputs, func(o Output) bool { return !slices.Contains(sealedFiles(), o.Name) })
}

// Export makes a store in the directory to, or adds to one, of what sealed guests boot: of a kernel
// of all that is wanted some 40 MB. It makes it ready here first.
func (s *Store) Export(ctx context.Context, to string, want Want) error {
	if _, err := s.Ensure(ctx, want); err != nil {
		return err
	}
	out, err := Open(to, Options{})
	if err != nil {
		return err
	}
	if out.readOnly {
		return fmt.Errorf("export images: %s is not writable", to)
	}
	recipes := []recipe{kernelRecipe(want.Kernel), rootRecipe(), endpointRecipe()}
	if want.External {
		recipes = append(recipes, externalRecipe())
	}
	if want.HTTP {
		recipes = append(recipes, httpRecipe())
	}
	for _, r := range recipes {
		if err := s.export(ctx, out, r); err != nil {
			return fmt.Errorf("export image %s: %w", r.name, err)
		}
	}
	return nil
}

// export copies one artifact, unless it is there.
func (s *Store) export(ctx context.Context, out *Store, r recipe) error {
	m, from, err := s.ensure(ctx, r)
	if err != nil {
		return err
	}
	unlock, err := out.lock(ctx, r.name)
	if err != nil {
		return err
	}
	defer unlock()
	to := filepath.Join(out.artifacts(), filepath.Base(from))
	if there, err := readManifest(to); err == nil {
		return there.check(to, false)
	}
	temp := filepath.Join(out.tempDir(), r.name)
	if err := errors.Join(os.RemoveAll(temp), makeDir(temp)); err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	var kept []Output
	for _, o := range m.Outputs {
		if !slices.Contains(sealedFiles(), o.Name) {
			continue
		}
		if err := copyFile(filepath.Join(from, o.Name), filepath.Join(temp, o.Name)); err != nil {
			return err
		}
		copied, err := sealOutput(temp, o.Name)
		if err != nil {
			return err
		}
		if copied.SHA256 != o.SHA256 {
			return fmt.Errorf("the SHA-256 of %s is %s, not %s as when it was built", filepath.Join(from, o.Name), copied.SHA256, o.SHA256)
		}
		kept = append(kept, copied)
	}
	m.Outputs = kept
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(temp, manifestFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	return durable.Rename(temp, to)
}
