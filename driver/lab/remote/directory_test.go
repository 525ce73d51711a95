package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/host"
	"hookbed/driver/marker"
)

// shell runs one of the scripts that machines run.
func shell(script string, args ...string) (out, said string, err error) {
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

func me(t *testing.T) *user.User {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// made is a run's directory, with the shell that keeps it.
type made struct {
	marker.Marker
	*keeper
}

// thisHost runs commands here, until they end.
type thisHost struct{ host.Host }

func (thisHost) Run(_ context.Context, cmd host.Cmd) error {
	var stderr bytes.Buffer
	c := exec.Command(cmd.Argv[0], cmd.Argv[1:]...)
	c.Stdout, c.Stderr = cmd.Stdout, &stderr
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, cmd.Stdin)
		_ = in.Close()
	}()
	if err := c.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	return nil
}

// makeRun is what a driver does first on a machine. login is the user there.
func makeRun(t *testing.T, dir, run, login string, seconds int) (made, error) {
	t.Helper()
	of, found := markers("r1", "anna")
	m := made{keeper: keep(t.Context(), thisHost{}, []string{"sh", "-c", keepRunDir, "sh", dir, run, login, of, found, strconv.Itoa(seconds)})}
	t.Cleanup(func() { _ = m.release(context.Background()) })
	text, err := m.first(t.Context())
	if err != nil {
		return m, err
	}
	if m.Marker, err = marker.Parse(text); err != nil {
		t.Fatal(err)
	}
	return m, nil
}

// patience is how long the shell waits in tests that do not wait for it.
const patience = 600

func put(t *testing.T, parts ...string) {
	t.Helper()
	file := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("precious\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		out = append(out, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// TestRunDirectoryOfOurs: a directory that is made, or empty, is taken into use and
// left as it was; one run joins another's.
func TestRunDirectoryOfOurs(t *testing.T) {
	for _, there := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "hookbed")
		if there {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		one, err := makeRun(t, dir, "run-one", me(t).Username, patience)
		if err != nil {
			t.Fatal(err)
		}
		two, err := makeRun(t, dir, "run-two", me(t).Username, patience)
		if err != nil {
			t.Fatal(err)
		}
		if one.Token != two.Token || one.Made == there || one.Lab != "r1" {
			t.Errorf("markers %+v and %+v, the directory was there: %v", one.Marker, two.Marker, there)
		}
		for run, kept := range map[string]made{"run-one": one, "run-two": two} {
			if !marker.Has(filepath.Join(dir, run), one.Token) {
				t.Errorf("%s does not carry the token", run)
			}
			if err := kept.release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(dir); (err == nil) != there {
			t.Errorf("the directory was there %v, and afterwards: %v", there, err)
		}
		if there && tree(t, dir) != "" {
			t.Errorf("left: %s", tree(t, dir))
		}
	}
}

// TestRunDirectoryOfOthers: a folder in use is refused before anything is written,
// also where it looks like one of hookbed's, and removing runs leaves what others have.
func TestRunDirectoryOfOthers(t *testing.T) {
	base := t.TempDir()
	for name, files := range map[string][]string{
		"any file": {"data.txt"}, "images": {"images/photo.png"}, "a run": {"run-abc/notes"}, "hidden": {".x"},
		"a marker of another kind": {marker.File}, "link": nil, "home": nil,
	} {
		dir := filepath.Join(base, strings.ReplaceAll(name, " ", "-"), "dir")
		switch name {
		case "link":
			put(t, base, "target", "data.txt")
			if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(base, "target"), dir); err != nil {
				t.Fatal(err)
			}
		case "home":
			dir = me(t).HomeDir
		}
		for _, f := range files {
			put(t, dir, f)
		}
		before := ""
		if name != "home" {
			before = tree(t, dir)
		}
		_, err := makeRun(t, dir, "run-new", me(t).Username, patience)
		if err == nil || !slices.ContainsFunc([]string{Foreign, "symbolic link", "home of a user"}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "home" {
			if _, err := os.Lstat(filepath.Join(dir, "run-new")); err == nil {
				t.Fatal("a run's directory in a home")
			}
			continue
		}
		if _, said, err := shell(leaveRunDir, dir, "run-abc", "aaaaaaaaaaaaaaaaaaaa"); err != nil {
			t.Error(err, said)
		}
		if after := tree(t, dir); after != before {
			t.Errorf("%s: was %s, is %s", name, before, after)
		}
	}
}

// TestRunDirectoryAbandoned: a run's directory is gone, with all that was sent, when its driver is, when
// nothing comes, and when it cannot be given to the login; not when an agent has it.
func TestRunDirectoryAbandoned(t *testing.T) {
	for what, abandon := range map[string]func(m made, run string) error{
		"driver gone":   func(m made, _ string) error { return m.in.Close() },
		"nothing comes": func(made, string) error { return nil },
		"removed":       func(_ made, run string) error { return os.RemoveAll(run) },
		"agent":         func(_ made, run string) error { return os.WriteFile(filepath.Join(run, marker.Attended), nil, 0o600) },
	} {
		dir := filepath.Join(t.TempDir(), "hookbed")
		run, seconds := filepath.Join(dir, "run-one"), patience
		if what == "nothing comes" {
			seconds = 1
		}
		m, err := makeRun(t, dir, "run-one", me(t).Username, seconds)
		if err != nil {
			t.Fatal(err)
		}
		if what != "nothing comes" {
			put(t, run, "guest")
		}
		if err := abandon(m, run); err != nil {
			t.Fatal(err)
		}
		<-m.ended
		_, err = os.Stat(run)
		if _, said, err := shell(leaveRunDir, dir, "run-one", m.Token); err != nil {
			t.Error(err, said)
		}
		if left := err == nil; m.keeper.err != nil || left != (what == "agent") {
			t.Errorf("%s: it ended by %v, and the directory is there: %v", what, m.keeper.err, left)
		}
	}
}

// TestRunDirectoryAmongOthers: what others put into the directory stays, with the
// directory; a run that does not carry the token stays, too.
func TestRunDirectoryAmongOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hookbed")
	m, err := makeRun(t, dir, "run-one", me(t).Username, patience)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "run-other", "precious")
	for _, run := range []string{"run-other", "run-one"} {
		if _, said, err := shell(leaveRunDir, dir, run, m.Token); err != nil {
			t.Error(err, said)
		}
	}
	if got := tree(t, dir); got != " /"+marker.File+" /run-other /run-other/precious" {
		t.Errorf("left: %s", got)
	}
}

// TestRunDirectoriesAtOnce: runs that begin and end at once never take each other's
// directory along, and the last one leaves nothing.
func TestRunDirectoriesAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hookbed")
	user := me(t).Username
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 8 {
				run := "run-" + string(rune('a'+i))
				m, err := makeRun(t, dir, run, user, patience)
				if err != nil {
					t.Error(err)
					return
				}
				if !marker.Has(filepath.Join(dir, run), m.Token) {
					t.Errorf("%s does not carry its token", run)
				}
				if err := m.release(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(dir, run)); err == nil {
					t.Errorf("%s is left", run)
				}
			}
		})
	}
	group.Wait()
	left, err := os.ReadDir(dir)
	if err == nil && len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLabDirectory: on a hypervisor a lab's directory goes by its token only, images
// stay, and a folder in use is refused.
func TestLabDirectory(t *testing.T) {
	base := t.TempDir()
	dir, name := filepath.Join(base, "srv", "hookbed"), "r1-0a1b2c3d"
	run := filepath.Join(dir, "labs", name)
	made, found := markers(name, "anna")
	mine := marker.New(name, "anna")
	if _, said, err := shell(makeLabDir, dir, run, made, found, mine.Text()); err != nil {
		t.Fatal(err, said)
	}
	if st, err := os.Stat(run); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("a lab's directory: %v, %v, want that others cannot enter it", st, err)
	}
	for _, mode := range []os.FileMode{0o700, 0o755} {
		if err := os.Chmod(filepath.Join(base, "srv"), mode); err != nil {
			t.Fatal(err)
		}
		_, said, err := shell("chgrp() { :; }\n"+letPass, run, "4242")
		if closed := strings.Contains(said, "cannot pass "+filepath.Join(base, "srv")); closed != (mode == 0o700) || closed && err == nil {
			t.Errorf("a directory of mode %o on the way: %v, %s", mode, err, said)
		}
		if st, err := os.Stat(run); err != nil || st.Mode().Perm() != 0o710 {
			t.Errorf("a lab's directory that a group may pass: %v, %v", st, err)
		}
	}
	put(t, run, "known_hosts")
	if _, said, err := shell(inspectDirectory, dir); err != nil {
		t.Error("doctor refuses our own directory:", err, said)
	}
	if _, _, err := shell(leaveLabDir, run, name, marker.New("", "").Token); err == nil || !marker.Has(run, mine.Token) {
		t.Errorf("removed by another's token: %v", err)
	}
	if _, said, err := shell(leaveLabDir, run, name, mine.Token); err != nil {
		t.Error(err, said)
	}
	if got := tree(t, dir); got != " /"+marker.File+" /images /labs" {
		t.Errorf("left: %s", got)
	}
	other := filepath.Join(base, "other")
	put(t, other, "images", "photo.png")
	before := tree(t, other)
	for _, try := range []struct {
		script string
		args   []string
	}{{makeLabDir, []string{other, filepath.Join(other, "labs", name), made, found, mine.Text()}}, {inspectDirectory, []string{other}}} {
		if _, said, err := shell(try.script, try.args...); err == nil || !strings.Contains(said, Foreign) {
			t.Errorf("a folder in use: %v, %s", err, said)
		}
	}
	if after := tree(t, other); after != before {
		t.Errorf("was %s, is %s", before, after)
	}
}

// TestOthersMayWrite: a directory that every user may write to, or put another in the place of, is
// refused before anything is written.
func TestOthersMayWrite(t *testing.T) {
	for _, open := range []string{"hookbed", "srv"} {
		base := t.TempDir()
		dir := filepath.Join(base, "srv", "hookbed")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		at := dir
		if open == "srv" {
			at = filepath.Dir(dir)
		}
		if err := os.Chmod(at, 0o777); err != nil {
			t.Fatal(err)
		}
		for _, run := range []func() (string, error){
			func() (string, error) {
				_, err := makeRun(t, dir, "run-one", me(t).Username, patience)
				return fmt.Sprint(err), err
			},
			func() (string, error) { _, said, err := shell(inspectDirectory, dir); return said, err },
		} {
			if said, err := run(); err == nil || !strings.Contains(said, "every user may write to "+at) {
				t.Errorf("%s is open: %v, %s", open, err, said)
			}
		}
		if got := tree(t, dir); got != "" {
			t.Errorf("left: %s", got)
		}
		if err := os.Chmod(at, 0o777|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		if _, err := makeRun(t, dir, "run-one", me(t).Username, patience); (err == nil) != (open == "srv") {
			t.Errorf("%s is open and sticky, as /tmp is: %v", open, err)
		}
	}
}

// TestListing: a tree on a machine is what it was when it was sent, or is seen not to be.
func TestListing(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "usr", "bin", "iperf3")
	put(t, dir, "usr", "bin-b", "netperf")
	put(t, dir, "etc", "hosts")
	if err := os.Symlink("usr/bin", filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	want, err := listing(os.DirFS(dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, said, err := shell(listTree, dir); err != nil || got != want {
		t.Fatalf("listed as %q, want %q: %v %s", got, want, err, said)
	}
	file := filepath.Join(dir, "usr", "bin", "iperf3")
	for what, change := range map[string]func() error{
		"a byte":     func() error { return os.WriteFile(file, []byte("Precious\n"), 0o600) },
		"a new file": func() error { return os.WriteFile(filepath.Join(dir, "etc", "ld.so.preload"), nil, 0o600) },
		"a link": func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "bin")), os.Symlink("etc", filepath.Join(dir, "bin")))
		},
		"a pipe": func() error { return unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600) },
	} {
		before, _, _ := shell(listTree, dir)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if after, _, err := shell(listTree, dir); err != nil || after == before || after == want {
			t.Errorf("%s changed nothing in %q (%v)", what, after, err)
		}
	}
}
