package agent

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
func attended(t *testing.T, made bool) *agent {
	t.Helper()
	m := marker.New("r1", "anna")
	m.Made = made
	a := &agent{Options: Options{Dir: filepath.Join(t.TempDir(), "hookbed"), Run: RunPrefix + "mine", Token: m.Token}}
	a.write(t, m.Text(), marker.File)
	a.write(t, m.Text(), a.Run, marker.File)
	a.write(t, "x", a.Run, "guest")
	a.write(t, "", lockFile)
	a.write(t, "x", imagesDir, "endpoint-0123456789abcdef", "bin", "sh")
	return a
}

func (a *agent) write(t *testing.T, text string, parts ...string) {
	t.Helper()
	file := filepath.Join(append([]string{a.Dir}, parts...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// left lists the files below the directory; "" if it is gone.
func (a *agent) left(t *testing.T) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(a.Dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, strings.TrimPrefix(path, a.Dir+"/"))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestAgentRemovesWhatARunMade: everything goes, and the directory if it was made
// for runs; the images stay where the next run wants them.
func TestAgentRemovesWhatARunMade(t *testing.T) {
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
			a.Cache = tt.cache
			if err := a.removeFiles(); err != nil {
				t.Error(err)
			}
			_, err := os.Stat(a.Dir)
			if got := a.left(t); got != tt.want || (err == nil) != tt.there {
				t.Errorf("left %q, want %q; the directory: %v", got, tt.want, err)
			}
		})
	}
}

// TestAgentLeavesWhatOthersMade: a file without the run's token stays, whatever its
// name and age, and so do the files around it.
func TestAgentLeavesWhatOthersMade(t *testing.T) {
	a := attended(t, true)
	a.write(t, "x", imagesDir, "photo.png")
	a.write(t, "x", imagesDir, "endpoint-of-others", "x")
	a.write(t, "x", "run-old", "notes")
	a.write(t, marker.New("r2", "bob").Text(), "run-older", marker.File)
	a.write(t, "x", "data.txt")
	a.write(t, "{", ".tmp-nic.json-17") // a journal whose writer was killed
	a.write(t, "x", ".tmp-notes-17")
	killed := filepath.Join(a.Dir, "run-killed")
	own, err := os.ReadFile(filepath.Join(a.Dir, marker.File))
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, string(own), "run-killed", marker.File)
	long := time.Now().Add(-2 * staleRun)
	for _, dir := range []string{filepath.Join(a.Dir, "run-old"), filepath.Join(a.Dir, "run-older"), killed} {
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

// TestAgentWithoutMarker: a directory whose marker is gone, or is another's, is
// left alone, and no run begins in it.
func TestAgentWithoutMarker(t *testing.T) {
	for _, text := range []string{"", marker.New("r2", "bob").Text()} {
		a := attended(t, true)
		a.write(t, text, marker.File)
		a.write(t, "x", imagesDir, "photo.png")
		if err := a.removeFiles(); err == nil || !strings.Contains(err.Error(), "lost its marker") {
			t.Errorf("%v, want it said", err)
		}
		want := marker.File + " images/endpoint-0123456789abcdef/bin/sh images/photo.png lock"
		if got := a.left(t); got != want {
			t.Errorf("left %q, want %q", got, want)
		}
		if err := a.serveDriver(t.Context(), nil, nil, nil); err == nil || !strings.Contains(err.Error(), "has not this run's marker") {
			t.Errorf("agent: %v", err)
		}
	}
	a := attended(t, true)
	aside := filepath.Join(t.TempDir(), "images")
	if err := os.Rename(filepath.Join(a.Dir, imagesDir), aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(aside, filepath.Join(a.Dir, imagesDir)); err != nil {
		t.Fatal(err)
	}
	if err := a.removeFiles(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "endpoint-0123456789abcdef")); err != nil {
		t.Errorf("removed through a link: %v", err)
	}
}
