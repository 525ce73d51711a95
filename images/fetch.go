package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/durable"
)

// aptHelper is apt's downloader: it checks digests, tries again, and uses
// this computer's proxies and credentials.
const aptHelper = "/usr/lib/apt/apt-helper"

// GoneError is a pinned package that no known server has any more.
type GoneError struct {
	Lock    string
	Package Package
	Tried   []string // "URL: reason"
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("fetch package %s %s of lock %s: tried %s; pin what the mirror has now with \"driver images lock\", "+
		"allow other versions with --drift=allow, or set %s to the base URL of a snapshot service",
		e.Package.Name, e.Package.Version, e.Lock, strings.Join(e.Tried, " and "), snapshotVariable)
}

// debs keeps downloaded packages by their SHA-256.
type debs struct {
	dir     string // existing directory
	mirrors mirrors
	log     func(string)
}

func (d debs) path(p Package) string { return filepath.Join(d.dir, p.SHA256+".deb") }

// fetch makes every package of the lock present: from the cache, the mirror,
// or, if the mirror has it no more, the snapshot service. The error joins one
// error for each package; *GoneError if none of them has it.
func (d debs) fetch(ctx context.Context, l Lock) error {
	missing := d.missing(l.Packages)
	if len(missing) == 0 {
		return nil
	}
	d.log(fmt.Sprintf("download %d of %d packages of lock %s", len(missing), len(l.Packages), l.Name))
	reasons, err := d.download(ctx, missing, d.mirrors.current)
	if err != nil {
		return err
	}
	missing = d.missing(missing)
	var older map[string]string
	gone := slices.DeleteFunc(slices.Clone(missing), func(p Package) bool { return !isGone(reasons[decode(d.mirrors.current(p))]) })
	if len(gone) > 0 && d.mirrors.snapshot != "" {
		d.log(fmt.Sprintf("download %d packages from the snapshot service", len(gone)))
		if older, err = d.download(ctx, gone, func(p Package) string { return d.mirrors.past(p, l) }); err != nil {
			return err
		}
	}
	var bad []error
	for _, p := range d.missing(missing) {
		bad = append(bad, d.explain(l, p, reasons, older))
	}
	return errors.Join(bad...)
}

// explain says why a package is missing: gone from the mirror, or a mirror
// that does not answer or sends something else.
func (d debs) explain(l Lock, p Package, reasons, older map[string]string) error {
	address := d.mirrors.current(p)
	if !isGone(reasons[decode(address)]) {
		return fmt.Errorf("fetch package %s %s: %s: is the mirror reachable?", p.Name, p.Version, tried(address, reasons))
	}
	e := &GoneError{Lock: l.Name, Package: p, Tried: []string{tried(address, reasons)}}
	if past := d.mirrors.past(p, l); past != "" {
		e.Tried = append(e.Tried, tried(past, older))
	}
	return e
}

// isGone recognises apt's words for a file that a working server does not have.
func isGone(reason string) bool {
	return strings.HasPrefix(reason, "404") || strings.HasPrefix(reason, "410") || strings.HasPrefix(reason, "File not found")
}

func tried(address string, reasons map[string]string) string {
	if r := reasons[decode(address)]; r != "" {
		return address + " (" + r + ")"
	}
	return address + " (failed)"
}

// missing lists the packages that are not in the cache with the right size.
// The digest was checked before a file got its name.
func (d debs) missing(packages []Package) []Package {
	var out []Package
	for _, p := range packages {
		if st, err := os.Stat(d.path(p)); err != nil || st.Size() != p.Size {
			out = append(out, p)
		}
	}
	return out
}

// download fetches packages in one call of apt-helper. reasons has, by URL,
// why one is still missing; err is for what concerns no single package.
func (d debs) download(ctx context.Context, packages []Package, locate func(Package) string) (reasons map[string]string, err error) {
	temp, err := os.MkdirTemp(d.dir, "part.")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	argv := []string{aptHelper, "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "download-file"}
	part := func(p Package) string { return filepath.Join(temp, p.SHA256) }
	for _, p := range packages {
		argv = append(argv, locate(p), part(p), "SHA256:"+p.SHA256)
	}
	_, err = command{argv: argv}.run(ctx)
	var failed *toolError
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	for _, p := range packages {
		if err := d.keep(p, part(p)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if failed == nil {
		return nil, nil
	}
	return parseReasons(failed.Output), nil
}

// keep gives a downloaded file its name if it is the package it should be.
func (d debs) keep(p Package, file string) error {
	sum, size, err := hashFile(file)
	if err != nil {
		return err
	}
	if sum != p.SHA256 || size != p.Size {
		return fmt.Errorf("check package %s: downloaded %d bytes with SHA-256 %s, want %d with %s", p.Name, size, sum, p.Size, p.SHA256)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		return err
	}
	return durable.Rename(file, d.path(p))
}

// parseReasons reads "E: Failed to fetch URL  REASON" lines. apt encodes more
// characters in a URL than it was given, so the keys are decoded.
func parseReasons(output string) map[string]string {
	reasons := map[string]string{}
	for line := range strings.Lines(output) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "E: Failed to fetch ")
		if !ok {
			continue
		}
		failed, reason, _ := strings.Cut(rest, " ")
		reason, _, _ = strings.Cut(reason, "[IP:")
		reasons[decode(failed)] = strings.Join(strings.Fields(reason), " ")
	}
	return reasons
}

// decode is a URL with its percent signs resolved, to compare two of them.
func decode(rawURL string) string {
	if plain, err := url.PathUnescape(rawURL); err == nil {
		return plain
	}
	return rawURL
}

// hashFile is the SHA-256 in hex and the size of a file.
func hashFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
