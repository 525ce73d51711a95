package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// archive is a Debian mirror and a snapshot service on loopback.
type archive struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]string // by URL path
	asked map[string]int
}

func newArchive(t *testing.T) *archive {
	a := &archive{files: map[string]string{}, asked: map[string]int{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked[r.URL.Path]++
		text, ok := a.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *archive) mirrors() mirrors {
	return mirrors{main: a.URL + "/debian", security: a.URL + "/debian-security", snapshot: a.URL + "/snapshot", trust: "trusted=yes"}
}

// pin is a package with the given contents, at its usual path.
func pin(name, version, contents string) Package {
	return Package{Name: name, Version: version, Size: int64(len(contents)), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(contents))),
		Path: fmt.Sprintf("pool/main/%s/%s_%s_all.deb", name[:1], name, version)}
}

// serve puts a package's contents on the mirror.
func (a *archive) serve(p Package, contents string) { a.files["/debian/"+p.Path] = contents }

// index publishes packages in the mirror's index, unsigned.
func (a *archive) index(packages ...Package) {
	var text strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: all\nFilename: %s\nSize: %d\nSHA256: %s\nDescription: test\n\n", p.Name, p.Version, p.Path, p.Size, p.SHA256)
	}
	for dir, index := range map[string]string{"/debian/dists/trixie": text.String(), "/debian/dists/trixie-updates": "", "/debian-security/dists/trixie-security": ""} {
		a.files[dir+"/main/binary-amd64/Packages"] = index
		a.files[dir+"/Release"] = fmt.Sprintf("Origin: Debian\nCodename: %s\nComponents: main\nArchitectures: amd64\nDate: Mon, 23 Nov 2026 00:00:00 UTC\nSHA256:\n %x %d main/binary-amd64/Packages\n",
			filepath.Base(dir), sha256.Sum256([]byte(index)), len(index))
	}
}

func lockOf(t *testing.T, packages ...Package) Lock {
	l := testLock(t, "20261123T000000Z")
	l.Packages = packages
	return l
}

func debsOf(t *testing.T, m mirrors) debs {
	return debs{dir: t.TempDir(), mirrors: m, log: func(string) {}}
}

func TestFetch(t *testing.T) {
	a := newArchive(t)
	current, old := pin("current", "1.0+b1~x", "new bytes"), pin("old", "2+dfsg~1", "old bytes")
	a.serve(current, "new bytes")
	a.files["/snapshot/archive/debian/20261123T000000Z/"+old.Path] = "old bytes"
	d, l := debsOf(t, a.mirrors()), lockOf(t, current, old)
	if err := d.fetch(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Packages {
		if sum, _, err := hashFile(d.path(p)); err != nil || sum != p.SHA256 {
			t.Errorf("package %s has digest %s, error %v", p.Name, sum, err)
		}
	}
	asked := len(a.asked)
	if err := d.fetch(context.Background(), l); err != nil || len(a.asked) != asked {
		t.Errorf("second fetch: error %v, asked the servers %d times more", err, len(a.asked)-asked)
	}
}

func TestFetchGone(t *testing.T) {
	a := newArchive(t)
	gone, there := pin("gone", "1.2+dfsg~b-3", "bytes"), pin("there", "1", "other bytes")
	a.serve(there, "other bytes")
	d := debsOf(t, a.mirrors())
	err := d.fetch(context.Background(), lockOf(t, gone, there))
	var g *GoneError
	if !errors.As(err, &g) || g.Package != gone {
		t.Fatalf("error %v, want *GoneError for package gone", err)
	}
	for _, want := range []string{"gone 1.2+dfsg~b-3", a.URL + "/debian/" + gone.Path + " (404", a.URL + "/snapshot/archive/debian/20261123T000000Z/" + gone.Path + " (404",
		"driver images lock", "--drift=allow", snapshotVariable} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "there 1") || len(d.missing([]Package{there})) != 0 {
		t.Errorf("package there was not kept: %v", err)
	}
}

func TestFetchWrongBytes(t *testing.T) {
	a := newArchive(t)
	p := pin("wrong", "1", "right bytes")
	a.serve(p, "wrong bytes")
	d := debsOf(t, a.mirrors())
	err := d.fetch(context.Background(), lockOf(t, p))
	var g *GoneError
	if err == nil || errors.As(err, &g) || !strings.Contains(err.Error(), "Hash Sum mismatch") || !strings.Contains(err.Error(), p.Path) {
		t.Errorf("error %v, want a digest mismatch that names the file", err)
	}
	if files, _ := os.ReadDir(d.dir); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestFetchOffline(t *testing.T) {
	t.Parallel() // apt waits between its attempts
	a := newArchive(t)
	m := a.mirrors()
	a.Close()
	err := debsOf(t, m).fetch(context.Background(), lockOf(t, pin("any", "1", "bytes")))
	var g *GoneError
	if err == nil || errors.As(err, &g) || !strings.Contains(err.Error(), "Could not connect") || !strings.Contains(err.Error(), "is the mirror reachable?") {
		t.Errorf("error %v, want one that says the mirror cannot be reached", err)
	}
}
