package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hookbed/driver/marker"
)

// attended is a directory of runs with this run's own in it, both marked.
func attended(t *testing.T, made bool) *attendant {
	t.Helper()
	m := marker.New("r1", "anna")
	m.Made = made
	a := &attendant{attendOptions: attendOptions{dir: filepath.Join(t.TempDir(), "hookbed"), run: runPrefix + "mine", token: m.Token}}
	a.write(t, m.Text(), marker.File)
	a.write(t, m.Text(), a.run, marker.File)
	a.write(t, "x", a.run, "guest")
	a.write(t, "", attendLock)
	a.write(t, "x", attendImages, "endpoint-0123456789abcdef", "bin", "sh")
	return a
}

func (a *attendant) write(t *testing.T, text string, parts ...string) {
	t.Helper()
	file := filepath.Join(append([]string{a.dir}, parts...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// left lists the files below the directory; "" if it is gone.
func (a *attendant) left(t *testing.T) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(a.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, strings.TrimPrefix(path, a.dir+"/"))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestAttendantRemovesWhatARunMade: everything goes, and the directory if it was made
// for runs; the images stay where the next run wants them.
func TestAttendantRemovesWhatARunMade(t *testing.T) {
	for _, tt := range []struct {
		name        string
		made, cache bool
		want        string
		there       bool
	}{
		{"made", true, false, "", false},
		{"found empty", false, false, "", true},
		{"cached", true, true, marker.File + " images/endpoint-0123456789abcdef/bin/sh lock", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := attended(t, tt.made)
			a.cache = tt.cache
			if err := a.removeFiles(); err != nil {
				t.Error(err)
			}
			_, err := os.Stat(a.dir)
			if got := a.left(t); got != tt.want || (err == nil) != tt.there {
				t.Errorf("left %q, want %q; the directory: %v", got, tt.want, err)
			}
		})
	}
}

// TestAttendantLeavesWhatOthersMade: what carries no token of ours stays, whatever it
// is called and however old it is, and so does what is around it.
func TestAttendantLeavesWhatOthersMade(t *testing.T) {
	a := attended(t, true)
	a.write(t, "x", attendImages, "photo.png")
	a.write(t, "x", attendImages, "endpoint-of-others", "x")
	a.write(t, "x", "run-old", "notes")
	a.write(t, marker.New("r2", "bob").Text(), "run-older", marker.File)
	a.write(t, "x", "data.txt")
	a.write(t, "{", ".tmp-nic.json-17") // a journal whose writer was killed
	a.write(t, "x", ".tmp-notes-17")
	killed := filepath.Join(a.dir, "run-killed")
	own, err := os.ReadFile(filepath.Join(a.dir, marker.File))
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, string(own), "run-killed", marker.File)
	long := time.Now().Add(-2 * staleRun)
	for _, dir := range []string{filepath.Join(a.dir, "run-old"), filepath.Join(a.dir, "run-older"), killed} {
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.removeFiles(); err != nil {
		t.Error(err)
	}
	want := marker.File + " .tmp-notes-17 data.txt images/endpoint-of-others/x images/photo.png lock run-old/notes run-older/" + marker.File
	if got := a.left(t); got != want {
		t.Errorf("left %q, want %q", got, want)
	}
}

// TestAttendantWithoutMarker: a directory whose marker is gone, or is another's, is
// left alone, and no run begins in it.
func TestAttendantWithoutMarker(t *testing.T) {
	for _, text := range []string{"", marker.New("r2", "bob").Text()} {
		a := attended(t, true)
		a.write(t, text, marker.File)
		a.write(t, "x", attendImages, "photo.png")
		if err := a.removeFiles(); err == nil || !strings.Contains(err.Error(), "lost its marker") {
			t.Errorf("%v, want it said", err)
		}
		want := marker.File + " images/endpoint-0123456789abcdef/bin/sh images/photo.png lock"
		if got := a.left(t); got != want {
			t.Errorf("left %q, want %q", got, want)
		}
		if err := a.attend(t.Context(), nil, nil, nil); err == nil || !strings.Contains(err.Error(), "has not this run's marker") {
			t.Errorf("attended: %v", err)
		}
	}
	a := attended(t, true)
	aside := filepath.Join(t.TempDir(), "images")
	if err := os.Rename(filepath.Join(a.dir, attendImages), aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(aside, filepath.Join(a.dir, attendImages)); err != nil {
		t.Fatal(err)
	}
	if err := a.removeFiles(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "endpoint-0123456789abcdef")); err != nil {
		t.Errorf("removed through a link: %v", err)
	}
}
