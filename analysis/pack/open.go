package pack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/runs"
)

// Limits of an unpacked run: a hostile pack must not fill the disk or the memory.
const (
	// maxRatio is how many times larger than the pack its content may be, apart from
	// freeSize: rows compress to a twentieth, and nothing that a run writes to a fiftieth.
	maxRatio = 100
	freeSize = 64 << 20 // bytes

	maxManifest = 64 << 20 // bytes
	maxFile     = 4 << 30  // bytes of one file
	maxTotal    = 16 << 30 // bytes in all
	maxFiles    = 1_000_000
	minEntry    = 64 // bytes of a file's entry in the manifest: its digest alone
	maxBad      = 20 // problems that an error lists
)

// ErrDamaged is wrapped by every error about a pack that is not as it was
// published: it was cut short or changed, or is not a pack.
var ErrDamaged = errors.New("damaged pack")

// DamagedError names each file that differs from the manifest.
type DamagedError struct{ Problems []string }

func (e *DamagedError) Error() string {
	shown := e.Problems
	if more := len(shown) - maxBad; more > 0 {
		shown = append(slices.Clone(shown[:maxBad]), fmt.Sprintf("and %d more", more))
	}
	return ErrDamaged.Error() + ": " + strings.Join(shown, "; ")
}

func (e *DamagedError) Unwrap() error { return ErrDamaged }

func damaged(format string, args ...any) error {
	return &DamagedError{Problems: []string{fmt.Sprintf(format, args...)}}
}

// Open unpacks a pack into a directory, which must be empty or absent, and
// checks every file against the manifest. Errors about the pack wrap
// ErrDamaged; the directory may then contain a part of it.
func Open(file, dir string) (Manifest, error) {
	m, err := open(file, dir)
	if err != nil {
		return m, fmt.Errorf("open %s: %w", file, err)
	}
	return m, nil
}

func open(file, dir string) (m Manifest, err error) {
	f, err := runs.OpenFile(file)
	if err != nil {
		return m, err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return m, errors.Join(err, fmt.Errorf("%s is not empty", dir))
	}
	in := bufio.NewReader(f)
	zip, err := gzip.NewReader(in)
	if err != nil {
		return m, damaged("not a gzip file: %v", err)
	}
	zip.Multistream(false)
	tr := tar.NewReader(zip)
	if m, err = readManifest(tr); err != nil {
		return m, err
	}
	if most := freeSize + maxRatio*f.Size; m.size() > most {
		return m, damaged("%d bytes would be unpacked of %d, want at most %d", m.size(), f.Size, most)
	}
	u := unpacking{dir: dir, want: map[string]File{}}
	for _, want := range m.Files {
		u.want[want.Path] = want
	}
	if err := u.all(tr); err != nil {
		return m, err
	}
	// Refuse data after the archive: nothing would check it.
	if rest, err := io.Copy(io.Discard, io.LimitReader(zip, maxManifest)); err != nil {
		return m, damaged("the file is cut short: %v", err)
	} else if _, err := in.Peek(1); err == nil || rest == maxManifest {
		return m, damaged("something follows the archive")
	}
	return m, nil
}

func readManifest(tr *tar.Reader) (m Manifest, err error) {
	h, err := tr.Next()
	if err != nil {
		return m, damaged("not a tar archive: %v", err)
	}
	if h.Name != manifestFile || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return m, damaged("its first file is %q, want %s", h.Name, manifestFile)
	}
	data, err := io.ReadAll(tr) // no more than the size in its header
	if err != nil {
		return m, damaged("the file is cut short: %v", err)
	}
	if n := bytes.Count(data, []byte("{")); n > 1+len(data)/minEntry {
		return m, damaged("%s has %d entries in %d bytes", manifestFile, n, len(data))
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, damaged("%s: %v", manifestFile, err)
	}
	if m.Schema != Schema {
		return m, damaged("%s has schema %d, want %d", manifestFile, m.Schema, Schema)
	}
	return m, m.check()
}

// check refuses a manifest that would unpack outside the directory, or more data
// than any run has.
func (m Manifest) check() error {
	if len(m.Files) > maxFiles {
		return damaged("%d files, want at most %d", len(m.Files), maxFiles)
	}
	total := int64(0)
	for i, f := range m.Files {
		switch {
		case !local(f.Path):
			return damaged("%q is not a path inside the run", f.Path)
		case i > 0 && m.Files[i-1].Path >= f.Path:
			return damaged("%q is there twice or out of order", f.Path)
		case f.Size < 0 || f.Size > maxFile:
			return damaged("%s is %d bytes, want at most %d", f.Path, f.Size, int64(maxFile))
		case f.Path == runs.RowsFile && f.SHA256 != m.RowsSHA256, f.Path == runs.PlanFile && f.SHA256 != m.PlanSHA256:
			return damaged("%s has two digests", f.Path)
		}
		if total += f.Size; total > maxTotal {
			return damaged("more than %d bytes", int64(maxTotal))
		}
	}
	return nil
}

// size is the number of bytes of all files.
func (m Manifest) size() (total int64) {
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

// local reports whether a file's name is a clean path inside the run.
func local(name string) bool {
	return name == path.Clean(name) && filepath.IsLocal(filepath.FromSlash(name)) && name != "." && name != manifestFile && !strings.Contains(name, "\\")
}

// unpacking is the state of unpacking a run.
type unpacking struct {
	dir      string
	want     map[string]File // files of the manifest that were not unpacked yet
	problems []string
}

// all unpacks the whole archive, so that the error names every bad file.
func (u *unpacking) all(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.one(tr, h)
		}
		var here *os.PathError // an error of the disk, not of the pack
		switch {
		case errors.Is(err, ErrDamaged), errors.As(err, &here):
			return err
		case err != nil:
			return damaged("the file is cut short or not an archive: %v", err)
		}
	}
	for name := range u.want {
		u.problems = append(u.problems, name+" is missing")
	}
	if len(u.problems) > 0 {
		slices.Sort(u.problems)
		return &DamagedError{Problems: u.problems}
	}
	return nil
}

func (u *unpacking) one(tr *tar.Reader, h *tar.Header) error {
	if h.Typeflag != tar.TypeReg || !local(h.Name) {
		return damaged("%q is not a file inside the run", h.Name)
	}
	want, ok := u.want[h.Name]
	if !ok {
		u.problems = append(u.problems, h.Name+" is not in the manifest, or there twice")
		return nil
	}
	delete(u.want, h.Name)
	if h.Size != want.Size {
		u.problems = append(u.problems, fmt.Sprintf("%s is %d bytes, want %d", h.Name, h.Size, want.Size))
		return nil
	}
	sum, err := u.extract(tr, filepath.Join(u.dir, filepath.FromSlash(h.Name)))
	if err != nil {
		return err
	}
	if sum != want.SHA256 {
		u.problems = append(u.problems, h.Name+" has another digest")
	}
	return nil
}

func (u *unpacking) extract(r io.Reader, to string) (sum string, err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}
