package images

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
)

// snapshotLayout is how the snapshot service writes a point in time.
const snapshotLayout = "20060102T150405Z"

// Package is one pinned Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Size    int64  `json:"size"` // bytes
	SHA256  string `json:"sha256"`
	Path    string `json:"path"` // below the mirror's base, "pool/..."
}

// archive is the Debian archive that holds the package: security updates have
// one of their own, recognisable by the pool path.
func (p Package) archive() string {
	if strings.HasPrefix(p.Path, "pool/updates/") {
		return archiveSecurity
	}
	return archiveMain
}

// Lock pins what an image is made of.
type Lock struct {
	Name     string
	Suite    string
	Snapshot time.Time         // when it was locked, UTC; also the time stamp of all files in the image
	Want     []string          // requested packages, sorted
	Files    map[string]string // SHA-256 of single files inside packages, by name
	Packages []Package         // sorted by name
}

// ParseLock reads a lock file: lines of "suite NAME", "snapshot TIME",
// "want PACKAGE", "file NAME SHA256" and "package NAME VERSION SIZE SHA256
// PATH"; empty lines and lines that start with # are comments. Errors name the
// line.
func ParseLock(name string, data []byte) (Lock, error) {
	l := Lock{Name: name, Files: map[string]string{}}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; scan.Scan(); n++ {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := l.parseLine(fields[0], fields[1:]); err != nil {
			return Lock{}, fmt.Errorf("read lock %s.lock: line %d: %w", name, n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return Lock{}, fmt.Errorf("read lock %s.lock: %w", name, err)
	}
	if l.Suite == "" || l.Snapshot.IsZero() || len(l.Packages) == 0 {
		return Lock{}, fmt.Errorf("read lock %s.lock: suite, snapshot or packages are missing", name)
	}
	l.sort()
	return l, nil
}

func (l *Lock) parseLine(key string, args []string) error {
	counts := map[string]int{"suite": 1, "snapshot": 1, "want": 1, "file": 2, "package": 5}
	if want, ok := counts[key]; !ok {
		return fmt.Errorf("unknown key %q (allowed: file, package, snapshot, suite, want)", key)
	} else if len(args) != want {
		return fmt.Errorf("%s has %d values, not %d", key, len(args), want)
	}
	switch key {
	case "suite":
		l.Suite = args[0]
	case "want":
		l.Want = append(l.Want, args[0])
	case "file":
		l.Files[args[0]] = args[1]
		return checkSHA256(args[1])
	case "snapshot":
		at, err := time.Parse(snapshotLayout, args[0])
		l.Snapshot = at
		return err
	case "package":
		return l.parsePackage(args)
	}
	return nil
}

func (l *Lock) parsePackage(args []string) error {
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("size %q is not a number of bytes", args[2])
	}
	if err := checkSHA256(args[3]); err != nil {
		return err
	}
	if !strings.HasPrefix(args[4], "pool/") || path.Clean(args[4]) != args[4] {
		return fmt.Errorf("path %q is not a path below pool/", args[4])
	}
	l.Packages = append(l.Packages, Package{Name: args[0], Version: args[1], Size: size, SHA256: args[3], Path: args[4]})
	return nil
}

func checkSHA256(s string) error {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is not a SHA-256 in lower-case hex", s)
	}
	return nil
}

func (l *Lock) sort() {
	sort.Strings(l.Want)
	sort.Slice(l.Packages, func(i, j int) bool { return l.Packages[i].Name < l.Packages[j].Name })
}

// Format writes the lock file; ParseLock reads it back.
func (l Lock) Format() []byte {
	l.sort()
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What the %s image is made of. Written by \"driver images lock\"; do not edit.\n", l.Name)
	fmt.Fprintf(&b, "suite %s\nsnapshot %s\n", l.Suite, l.Snapshot.UTC().Format(snapshotLayout))
	for _, w := range l.Want {
		fmt.Fprintf(&b, "want %s\n", w)
	}
	for _, f := range sortedKeys(l.Files) {
		fmt.Fprintf(&b, "file %s %s\n", f, l.Files[f])
	}
	for _, p := range l.Packages {
		fmt.Fprintf(&b, "package %s %s %d %s %s\n", p.Name, p.Version, p.Size, p.SHA256, p.Path)
	}
	return b.Bytes()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
