// Package pack makes one file of a run that other people can check: the plan, the
// environments, every row, every raw file and the report, with the digest of
// each. Equal runs make equal packs, byte for byte. A pack shows that rows and report agree,
// not who measured them: for that it is signed, in a file of its own.
package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/durable"
	"hookbed/analysis/report"
	"hookbed/analysis/runs"
)

// Schema is the version of the manifest. Open refuses any other.
const Schema = 1

// Extension is the end of a pack's file name.
const Extension = ".hookbed.tar.gz"

const (
	manifestFile = "manifest.json"
	reportFile   = "report.json"
)

// Manifest is the first file of a pack and lists its content.
type Manifest struct {
	Schema     int    `json:"schema"`
	Run        string `json:"run"`                   // ID of the run in its rows
	PlanSHA256 string `json:"plan_sha256,omitempty"` // of plan.json
	RowsSHA256 string `json:"rows_sha256"`           // of rows.csv
	Clock      string `json:"clock"`                 // wall or virtual
	Files      []File `json:"files"`                 // sorted by path, without the manifest
}

// File is one file of a pack.
type File struct {
	Path   string `json:"path"` // relative, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// source is a file to pack.
type source struct {
	File
	from string // path on disk
}

// Write makes a pack of a run directory, whole or not at all. It makes the report
// in it again, from the rows that it packs.
func Write(dir, out string) (Manifest, error) {
	m, err := write(dir, out)
	if err != nil {
		return m, fmt.Errorf("pack %s: %w", dir, err)
	}
	return m, nil
}

func write(dir, out string) (m Manifest, err error) {
	loaded, err := runs.Load(dir)
	if err != nil {
		return m, err
	}
	if torn := loaded[0].Torn; torn != nil {
		return m, fmt.Errorf("%s was cut short in line %d: %s is not whole; finish the run by `driver run --resume` first", runs.RowsFile, torn.Line, torn.What())
	}
	fresh, remove, err := durable.Scratch("pack")
	if err != nil {
		return m, err
	}
	defer func() { _ = remove() }() // what stays costs only space
	if _, err := report.Make([]string{dir}, fresh, report.Options{}); err != nil {
		return m, err
	}
	all, err := collect(dir, belongs)
	if err != nil {
		return m, err
	}
	made, err := collect(fresh, func(string) bool { return true })
	if err != nil {
		return m, err
	}
	all = append(all, made...)
	slices.SortFunc(all, func(a, b source) int { return strings.Compare(a.Path, b.Path) })
	m = Manifest{Schema: Schema, Run: loaded[0].Name, Clock: loaded[0].Clock()}
	for _, s := range all {
		m.Files = append(m.Files, s.File)
		switch s.Path {
		case runs.PlanFile:
			m.PlanSHA256 = s.SHA256
		case runs.RowsFile:
			m.RowsSHA256 = s.SHA256
		}
	}
	return m, writeArchive(out, m, all)
}

// belongs reports whether a file of a run directory is part of the run. The report
// is not, since Write makes it again, and neither is the lock.
func belongs(name string) bool {
	top, _, deep := strings.Cut(name, "/")
	switch {
	case deep:
		return top == "raw" || top == "blocks" || top == "trace"
	case strings.HasPrefix(name, "env") && strings.HasSuffix(name, ".json"):
		return true
	}
	return slices.Contains([]string{runs.PlanFile, runs.RowsFile, "rows-superseded.csv", "shard.json"}, name)
}

// collect lists the wanted files below a directory, with their digests.
func collect(dir string, wanted func(string) bool) (out []source, err error) {
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if durable.IsTemp(e.Name()) || !wanted(name) {
			return nil
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", p)
		}
		f := File{Path: name}
		if f.Size, f.SHA256, err = digest(p); err != nil {
			return err
		}
		out = append(out, source{f, p})
		return nil
	})
	return out, err
}

func digest(name string) (size int64, sum string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// writeArchive writes the archive, which gets its name when it is whole.
func writeArchive(out string, m Manifest, all []source) error {
	durable.SweepTemps(out) // of a pack that was killed
	return durable.Write(out, 0o644, func(f *os.File) error { return archive(f, m, all) })
}

func archive(w io.Writer, m Manifest, all []source) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zip)
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if err := entry(tw, manifestFile, int64(len(data)), bytes.NewReader(data)); err != nil {
		return err
	}
	for _, s := range all {
		if err := entryFrom(tw, s); err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
	}
	return errors.Join(tw.Close(), zip.Close())
}

// entry writes one file without time and owner and with a fixed mode, so that equal
// content makes an equal archive.
func entry(tw *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Clean(name), Size: size, Mode: 0o644, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}

func entryFrom(tw *tar.Writer, s source) error {
	f, err := os.Open(s.from)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if err := entry(tw, s.Path, s.Size, io.TeeReader(f, h)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != s.SHA256 {
		return errors.New("changed while it was packed")
	}
	return nil
}
