package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hookbed/analysis/durable"
)

// versionLocks is the directory of the locks that pin one kernel version each.
const versionLocks = "locks/versions"

// versionSuites are the Debian suites that kernel versions are looked for in. Where two
// have a version, the later one in this list counts: it is the suite that the version
// was made for.
func versionSuites() []string {
	return []string{"bullseye", "bookworm-backports", "bookworm", "trixie-backports", "trixie", "experimental", externalSuite}
}

// Versions lists the kernels that are pinned by their upstream version, "7.0.13", oldest
// first. Each is one package of Debian, locked when a mirror had it: an experiment can
// name it, but no test boots it, and locks that follow their series are in Kernels.
func Versions() []string {
	var out []string
	for _, file := range recipeFiles(versionLocks) {
		out = append(out, kernelOf(strings.TrimSuffix(path.Base(file), ".lock")))
	}
	slices.SortFunc(out, compareVersions)
	return out
}

// compareVersions orders upstream versions by their numbers; a release candidate comes
// before its release.
func compareVersions(a, b string) int {
	a, rca, isA := strings.Cut(a, "-rc")
	b, rcb, isB := strings.Cut(b, "-rc")
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		if c := cmp.Compare(number(x[i]), number(y[i])); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(len(x), len(y)); c != 0 || isA == isB {
		return cmp.Or(c, cmp.Compare(number(rca), number(rcb)))
	}
	if isA {
		return -1
	}
	return 1
}

// upstream is the kernel's own version in the version of a Debian package: 7.0.13 in
// 7.0.13-1~bpo13+1, 7.3-rc7 in 7.3~rc7-1~exp1.
func upstream(debian string) string {
	if i := strings.LastIndex(debian, "-"); i >= 0 {
		debian = debian[:i]
	}
	return strings.ReplaceAll(debian, "~", "-")
}

// versionSource is a package of one kernel version, and the suite that has it.
type versionSource struct {
	suite string
	image Package
}

// LockVersions pins every kernel version that the mirror has and the checkout at dir has
// no lock of. A lock that is there stays as it is: what it names does not change. It
// returns the names of the new locks, oldest first, and why versions could not be
// locked, by name. Each is downloaded once, to a directory that is removed.
func (s *Store) LockVersions(ctx context.Context, dir string) (added []string, failed map[string]string, err error) {
	m, err := s.findMirrors(ctx)
	if err != nil {
		return nil, nil, err
	}
	temp, remove, err := durable.Scratch("versions")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = remove() }() // what stays costs only space
	roots := map[string]aptRoot{}   // by suite
	found := map[string]versionSource{}
	for _, in := range versionSuites() {
		if roots[in], err = newAptRoot(ctx, filepath.Join(temp, in), in, m); err != nil {
			return nil, nil, fmt.Errorf("read the mirror's index of %s: %w", in, err)
		}
		if err := roots[in].versions(ctx, in, found); err != nil {
			return nil, nil, fmt.Errorf("list kernels of %s: %w", in, err)
		}
	}
	names := sortedKeys(found)
	slices.SortFunc(names, compareVersions)
	failed = map[string]string{}
	for _, name := range names {
		file := filepath.Join(dir, "images", versionLocks, lockKernelPrefix+name+".lock")
		if _, err := os.Stat(file); err == nil {
			continue
		}
		from := found[name]
		s.options.Log(fmt.Sprintf("lock kernel %s of %s", name, from.suite))
		switch err := s.lockVersion(ctx, roots[from.suite], m, name, from, file); {
		case ctx.Err() != nil:
			return added, failed, ctx.Err()
		case err != nil:
			failed[name] = err.Error()
		default:
			added = append(added, name)
		}
	}
	return added, failed, nil
}

// versions adds the kernels for clouds that a suite has to found, by upstream version.
func (a aptRoot) versions(ctx context.Context, suite string, found map[string]versionSource) error {
	all, err := a.run(ctx, "apt-cache", "pkgnames", imagePrefix)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(strings.Fields(all), func(p string) bool { return !everyCloud().is(p) })
	slices.Sort(names)
	out, err := a.run(ctx, append([]string{"apt-cache", "--no-all-versions", "show"}, names...)...)
	if err != nil {
		return err
	}
	newest := map[string]Package{}
	for _, p := range imagePackages(out) {
		version := upstream(p.Version)
		later := true
		if have, ok := newest[version]; ok {
			if later, err = laterVersion(ctx, p.Version, have.Version); err != nil {
				return err
			}
		}
		if later {
			newest[version] = p
			found[version] = versionSource{suite: suite, image: p}
		}
	}
	return nil
}

// everyCloud is every kernel for clouds.
func everyCloud() kernelSource { return kernelSource{series: imagePrefix + "*-cloud-amd64"} }

// imagePackages picks the packages of kernels from apt's stanzas. One that depends on
// another image is only a name for the newest.
func imagePackages(stanzas string) []Package {
	var out []Package
	for _, s := range parseStanzas(stanzas) {
		if !slices.ContainsFunc(dependsOn(s), everyCloud().is) {
			out = append(out, Package{Name: s["Package"], Version: s["Version"]})
		}
	}
	return out
}

// lockVersion writes the lock of one kernel version.
func (s *Store) lockVersion(ctx context.Context, apt aptRoot, m mirrors, name string, from versionSource, file string) error {
	temp, remove, err := durable.Scratch("version")
	if err != nil {
		return err
	}
	defer func() { _ = remove() }() // what stays costs only space
	l := Lock{Name: lockKernelPrefix + name, Suite: from.suite, Want: []string{from.image.Name}, Files: map[string]string{},
		Snapshot: time.Now().UTC().Truncate(time.Second)}
	names, err := apt.kernelParts(ctx, from.image.Name)
	if err != nil {
		return err
	}
	for _, part := range append(names, busyboxPackage) {
		p, err := apt.partOf(ctx, m, part, from.image.Version, temp)
		if err != nil {
			return err
		}
		l.Packages = append(l.Packages, p)
	}
	d := debs{dir: temp, mirrors: m, log: s.options.Log}
	if err := lockKernelFile(ctx, d, &l); err != nil {
		return err
	}
	return writeFile(file, l.Format(), 0o644)
}

// partOf finds a package of a kernel. Where the index names the package no more, as the
// modules of kernels that were replaced, the mirror may still have the file, below the
// name of its source: it is downloaded to dir, and what came is pinned.
func (a aptRoot) partOf(ctx context.Context, m mirrors, name, version, dir string) (Package, error) {
	all, err := a.run(ctx, "apt-cache", "pkgnames", name)
	if err != nil {
		return Package{}, err
	}
	if slices.Contains(strings.Fields(all), name) {
		found, err := a.candidates(ctx, name)
		if err != nil {
			return Package{}, err
		}
		return found[0], nil
	}
	p := Package{Name: name, Version: version, Path: fmt.Sprintf("pool/main/l/linux/%s_%s_amd64.deb", name, version)}
	part := filepath.Join(dir, name)
	get := command{argv: []string{aptHelper, "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "download-file", m.current(p), part}}
	if _, err := get.run(ctx); err != nil {
		return Package{}, fmt.Errorf("package %s %s is not in the index, and its file is gone: %w", name, version, err)
	}
	p.SHA256, p.Size, err = hashFile(part)
	return p, errors.Join(err, debs{dir: dir}.keep(p, part))
}
