package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hookbed/analysis/durable"
)

const manifestFile = "manifest.json"

// format is part of every inputs digest: raise it when the code builds
// something else from the same recipe.
const format = 4

// recipe is one artifact directory: what goes in, and how it is made.
type recipe struct {
	name  string   // name of the lock too
	files []string // embedded files that go in
	build func(ctx context.Context, b *build) error
}

// inputs is the digest of all that goes into an artifact.
func (r recipe) inputs(packages []Package, snapshot time.Time) string {
	h := sha256.New()
	fmt.Fprintf(h, "format %d\nrecipe %s\nsnapshot %d\n", format, r.name, snapshot.Unix())
	for _, f := range r.files {
		fmt.Fprintf(h, "file %s %x\n", f, sha256.Sum256(recipeFile(f)))
	}
	for _, p := range packages {
		fmt.Fprintf(h, "package %s %s\n", p.Name, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// build is a recipe being made. Both directories are removed if it fails.
type build struct {
	lock     Lock
	debs     debs
	out      string // becomes the artifact
	work     string // scratch
	manifest Manifest
	log      func(string)
}

// epoch is the time stamp of every file in the image.
func (b *build) epoch() time.Time { return b.lock.Snapshot }

func (b *build) packagePath(name string) (string, error) {
	for _, p := range b.lock.Packages {
		if p.Name == name {
			return b.debs.path(p), nil
		}
	}
	return "", fmt.Errorf("package %s is not in lock %s", name, b.lock.Name)
}

// Manifest records what an artifact was made of and what the result is.
type Manifest struct {
	Name     string            `json:"name"`
	Inputs   string            `json:"inputs"` // SHA-256 over recipe and packages
	Snapshot time.Time         `json:"snapshot"`
	Tools    map[string]string `json:"tools"`
	Values   map[string]string `json:"values,omitempty"`
	Outputs  []Output          `json:"outputs"`
	Drift    []Drift           `json:"drift,omitempty"`
	Packages []Package         `json:"packages"`
}

// Output is one file of an artifact. As long as size and time of change are
// what they were when it was hashed, it is not hashed again.
type Output struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime_ns"`
}

func (m Manifest) artifact(dir, name string) Artifact {
	for _, o := range m.Outputs {
		if o.Name == name {
			return Artifact{Name: name, Path: filepath.Join(dir, name), SHA256: o.SHA256, Size: o.Size}
		}
	}
	return Artifact{}
}

// verified is an artifact whose file is what it was when it was built: see checkOnce. Where the lock
// pins the file, it has the lock's digest, too.
func (m Manifest) verified(dir, name string, l Lock) (Artifact, error) {
	a := m.artifact(dir, name)
	if err := a.checkOnce(); err != nil {
		return a, err
	}
	if want := l.Files[name]; want != "" && a.SHA256 != want && len(m.Drift) == 0 {
		return a, fmt.Errorf("check cached image %s: its SHA-256 is %s, lock %s says %s: remove %s to have it built again", a.Path, a.SHA256, l.Name, want, dir)
	}
	return a, nil
}

// verifiedDir is the directory of an artifact's unpacked files, which were read again and are what
// they were when they were built.
func (m Manifest) verifiedDir(dir string) (string, error) {
	root := filepath.Join(dir, endpointDir)
	return root, checkEndpointDir(root, m.Values[valueLayer], m.Snapshot)
}

// check compares an artifact's files with the manifest, reading them only if
// size or time changed, or if full is set.
func (m Manifest) check(dir string, full bool) error {
	for _, o := range m.Outputs {
		file := filepath.Join(dir, o.Name)
		st, err := os.Stat(file)
		if err == nil && !full && st.Size() == o.Size && st.ModTime().UnixNano() == o.ModTime {
			continue
		}
		sum, _, err := hashFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			sum = "none, the file is missing"
		} else if err != nil {
			return err
		}
		if sum != o.SHA256 {
			return fmt.Errorf("check cached image %s: its SHA-256 is %s, not %s as when it was built: remove %s to have it built again", file, sum, o.SHA256, dir)
		}
	}
	if layer := m.Values[valueLayer]; full && layer != "" && !m.sealedOnly() {
		return checkEndpointDir(filepath.Join(dir, endpointDir), layer, m.Snapshot)
	}
	return nil
}

func readManifest(dir string) (Manifest, error) {
	var m Manifest
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read %s: %w: remove %s to have it built again", filepath.Join(dir, manifestFile), err, dir)
	}
	return m, nil
}

// ensure returns an artifact's manifest and directory, building it if needed.
// Of several processes that want the same one, one builds and the others wait.
func (s *Store) ensure(ctx context.Context, r recipe) (Manifest, string, error) {
	l, err := s.readLock(r.name)
	if err != nil {
		return Manifest{}, "", err
	}
	if m, dir, err := s.cached(r, l); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return m, dir, err
	}
	if s.readOnly {
		return Manifest{}, "", fmt.Errorf("image %s is %w %s, which this user may only read: its owner builds it there (`driver images build`), or copies it there (`driver images export`)",
			r.name, ErrNotCached, s.dir)
	}
	if s.options.CachedOnly {
		return Manifest{}, "", fmt.Errorf("image %s is %w %s", r.name, ErrNotCached, s.dir)
	}
	unlock, err := s.lock(ctx, r.name)
	if err != nil {
		return Manifest{}, "", err
	}
	defer unlock()
	if m, dir, err := s.cached(r, l); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return m, dir, err
	}
	drift, err := s.fetch(ctx, &l)
	if err != nil {
		return Manifest{}, "", err
	}
	if len(drift) > 0 {
		if m, dir, err := s.cached(r, l); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return m, dir, err
		}
	}
	m, dir, err := s.make(ctx, r, l, drift)
	if err != nil {
		return Manifest{}, "", fmt.Errorf("build image %s: %w", r.name, err)
	}
	return m, dir, nil
}

func (s *Store) artifactDir(r recipe, l Lock) string {
	return filepath.Join(s.artifacts(), r.name+"-"+r.inputs(l.Packages, l.Snapshot)[:16])
}

// cached finds a finished artifact; fs.ErrNotExist if there is none.
func (s *Store) cached(r recipe, l Lock) (Manifest, string, error) {
	dir := s.artifactDir(r, l)
	m, err := readManifest(dir)
	if err != nil {
		return m, "", err
	}
	if s.readOnly {
		err = m.checkOf(dir, r, l)
	} else {
		err = m.check(dir, false)
	}
	if err != nil {
		return m, "", err
	}
	return m, dir, nil
}

// make builds an artifact in a temporary directory and renames it into place.
// The caller holds the artifact's lock, so older temporaries are leftovers.
func (s *Store) make(ctx context.Context, r recipe, l Lock, drift []Drift) (m Manifest, dir string, err error) {
	temp := filepath.Join(s.tempDir(), r.name)
	if err := os.RemoveAll(temp); err != nil {
		return m, "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	b := &build{lock: l, debs: debs{dir: s.debDir()}, out: filepath.Join(temp, "out"), work: filepath.Join(temp, "work"), log: s.options.Log}
	for _, d := range []string{temp, b.out, b.work} {
		if err := makeDir(d); err != nil {
			return m, "", err
		}
	}
	b.manifest = Manifest{Name: r.name, Inputs: r.inputs(l.Packages, l.Snapshot), Snapshot: l.Snapshot, Drift: drift, Packages: l.Packages,
		Tools: map[string]string{}, Values: map[string]string{}}
	s.options.Log("build image " + r.name)
	if err := r.build(ctx, b); err != nil {
		return m, "", err
	}
	if err := b.finish(ctx); err != nil {
		return m, "", err
	}
	dir = s.artifactDir(r, l)
	return b.manifest, dir, durable.Rename(b.out, dir)
}

// makeDir makes a directory that everyone may enter, whatever the umask is.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() == 0o755 {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// finish hashes what was built, makes it readable for everyone and durable,
// and writes the manifest.
func (b *build) finish(ctx context.Context) error {
	if out, err := (command{argv: []string{"mksquashfs", "-version"}}).run(ctx); err == nil || out != "" {
		b.manifest.Tools["mksquashfs"], _, _ = strings.Cut(out, "\n")
	}
	entries, err := os.ReadDir(b.out)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		o, err := sealOutput(b.out, e.Name())
		if err != nil {
			return err
		}
		b.manifest.Outputs = append(b.manifest.Outputs, o)
	}
	data, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(b.out, manifestFile), append(data, '\n'), 0o644)
}

// chmodReadable lets everyone read a file, and everyone execute it if its owner may.
func chmodReadable(file string) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if st.Mode()&0o100 != 0 {
		mode = 0o755
	}
	return os.Chmod(file, mode)
}

func sealOutput(dir, name string) (Output, error) {
	file := filepath.Join(dir, name)
	if err := chmodReadable(file); err != nil {
		return Output{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return Output{}, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return Output{}, fmt.Errorf("write %s: %w", file, err)
	}
	sum, size, err := hashFile(file)
	if err != nil {
		return Output{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return Output{}, err
	}
	return Output{Name: name, SHA256: sum, Size: size, ModTime: st.ModTime().UnixNano()}, nil
}

// writeFile writes a file so that it is either old or new and never half.
func writeFile(name string, data []byte, mode os.FileMode) error {
	if err := durable.WriteFile(name, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// lock takes the lock with a name, waiting for the process that holds it until ctx ends.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	l, err := durable.AwaitLock(ctx, filepath.Join(s.lockDir(), name), 0o644, func() {
		s.options.Log("wait for another process that builds " + name)
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Unlock() }, nil
}

// debsLock is the name of the lock on the downloaded packages.
const debsLock = "debs"

// fetch makes the packages of a lock present. Where drift is allowed, packages
// that are gone are replaced in l by the mirror's current ones.
func (s *Store) fetch(ctx context.Context, l *Lock) ([]Drift, error) {
	unlock, err := s.lock(ctx, debsLock)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.cleanDebs(); err != nil {
		return nil, err
	}
	if len((debs{dir: s.debDir()}).missing(l.Packages)) == 0 {
		return nil, nil
	}
	m, err := s.findMirrors(ctx)
	if err != nil {
		return nil, err
	}
	d := s.debs(m)
	err = d.fetch(ctx, *l)
	var gone *GoneError
	if !errors.As(err, &gone) || s.options.Drift != "allow" {
		return nil, err
	}
	return s.drift(ctx, d, l)
}

// drift replaces the packages of l that are gone, and fetches the new ones.
func (s *Store) drift(ctx context.Context, d debs, l *Lock) ([]Drift, error) {
	temp, remove, err := durable.Scratch("drift")
	if err != nil {
		return nil, err
	}
	defer func() { _ = remove() }() // what stays costs only space
	apt, err := newAptRoot(ctx, temp, l.Suite, d.mirrors)
	if err != nil {
		return nil, fmt.Errorf("read the mirror's index: %w", err)
	}
	var drift []Drift
	packages := slices.Clone(l.Packages)
	for _, p := range d.replaced(*l) {
		now, err := apt.replacement(ctx, l.Name, p)
		if err != nil {
			return nil, fmt.Errorf("replace package %s %s: %w", p.Name, p.Version, err)
		}
		if now == p {
			continue // not gone, only not fetched
		}
		packages[slices.Index(packages, p)] = now
		drift = append(drift, Drift{Package: p.Name, Locked: p.Version, Used: now.Version})
		s.options.Log(fmt.Sprintf("drift: %s %s is gone, using %s %s", p.Name, p.Version, now.Name, now.Version))
	}
	l.Packages = packages
	return drift, d.fetch(ctx, *l)
}

// replaced lists the packages to look for anew: those that are missing, and with
// a part of a kernel its other part, which must be of the same version.
func (d debs) replaced(l Lock) []Package {
	out := d.missing(l.Packages)
	isKernel := func(p Package) bool { _, ok := kernelRelease(p); return ok }
	if !slices.ContainsFunc(out, isKernel) {
		return out
	}
	return slices.DeleteFunc(slices.Clone(l.Packages), func(p Package) bool { return !isKernel(p) && !slices.Contains(out, p) })
}

// replacement is what the mirror has now for a package that is gone. The name
// of a kernel package holds its version, so a kernel is found by its series.
func (a aptRoot) replacement(ctx context.Context, lock string, p Package) (Package, error) {
	name := p.Name
	if release, ok := kernelRelease(p); ok {
		from, ok := sourceOf(kernelOf(lock))
		if !ok {
			return Package{}, fmt.Errorf("kernel %s is one version, for which no other can be used", kernelOf(lock))
		}
		names, err := a.kernelPackages(ctx, from)
		if err != nil {
			return Package{}, err
		}
		prefix := strings.TrimSuffix(name, release)
		at := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) })
		if at < 0 {
			return Package{}, fmt.Errorf("the mirror's kernel %s has no package %s", from.name, prefix)
		}
		name = names[at]
	}
	found, err := a.candidates(ctx, name)
	if err != nil {
		return Package{}, err
	}
	if len(found) != 1 {
		return Package{}, errors.New("the mirror has no version of it")
	}
	return found[0], nil
}

// cleanDebs removes what downloads that were killed left behind. The caller
// holds the lock of the packages.
func (s *Store) cleanDebs() error {
	parts, err := filepath.Glob(filepath.Join(s.debDir(), "part.*"))
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) verifyDebs(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(s.debDir(), "*.deb"))
	if err != nil {
		return err
	}
	var bad []error
	for _, file := range files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		sum, _, err := hashFile(file)
		if err == nil && sum != strings.TrimSuffix(filepath.Base(file), ".deb") {
			err = fmt.Errorf("check cached package %s: its SHA-256 is %s: remove it to have it fetched again", file, sum)
		}
		bad = append(bad, err)
	}
	return errors.Join(bad...)
}
