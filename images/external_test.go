package images

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExternalRunByThemselves runs the external filters with nothing of this computer but its
// kernel: a library or loader that the image lacked would stop them.
func TestExternalRunByThemselves(t *testing.T) {
	s := openTest(t)
	set, err := s.Ensure(t.Context(), Want{External: true})
	if err != nil {
		t.Fatal(err)
	}
	if set.External == nil || set.External.SHA256 == "" || set.ExternalDigest == "" || set.Root.Path != "" {
		t.Errorf("the set is %+v, want the external filters alone", set)
	}
	for program, argument := range map[string]string{"bpfilter": "--help", "bfcli": "--help", "xdp-filter": "help", "xdp-loader": "help"} {
		cmd, want := exec.Command("/usr/sbin/"+program, argument), "Usage: "+program
		if program == "bpfilter" {
			want = "/sys/kernel/btf/vmlinux" // what it reads first, and what is missing here
		}
		cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: set.ExternalDir, Cloneflags: unix.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err := ended(err); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s %s: %v: %q, want %q in it", program, argument, err, out, want)
		}
	}
	for _, dir := range []string{"dev", "proc", "run", "tmp", "sys/fs/bpf"} {
		if left, err := os.ReadDir(filepath.Join(set.ExternalDir, dir)); err != nil || len(left) > 0 {
			t.Errorf("/%s holds %v (%v), want an empty directory to mount on", dir, left, err)
		}
	}
	entries, err := s.List()
	if err != nil || !slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == lockExternal && e.Current && e.Size() > 0 }) {
		t.Errorf("list has %+v (%v), want current peers", entries, err)
	}
}

// ended passes over the status of a program that ran.
func ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return nil
	}
	return err
}

// openTest is the store that this computer's labs use.
func openTest(t *testing.T) *Store {
	t.Helper()
	s, err := Open("", Options{Log: func(m string) { t.Log(m) }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExternalLockIsOfUnstable(t *testing.T) {
	l, err := readLock(lockExternal)
	if err != nil {
		t.Fatal(err)
	}
	if l.Suite != externalSuite || !slices.Equal(l.Want, recipePackages("peers/packages")) || len(l.Packages) != len(l.Want) {
		t.Errorf("lock of suite %q wants %v and pins %d packages", l.Suite, l.Want, len(l.Packages))
	}
	m := mirrors{main: "http://m/debian", security: "http://m/debian-security", trust: "signed-by=k"}
	if got := m.sources(suiteOf(lockExternal)); got != "deb [signed-by=k arch=amd64 check-valid-until=no] http://m/debian sid main\n" {
		t.Errorf("sources of the external filters are %q", got)
	}
	if got := m.sources(suiteOf(lockRoot)); strings.Count(got, "\n") != 3 || strings.Contains(got, "check-valid-until") {
		t.Errorf("sources of the root image are %q", got)
	}
}

func TestFindObjects(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "usr/lib/x86_64-linux-gnu/bpf")
	if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "a_1.o"), nil, 0o600), os.WriteFile(filepath.Join(at, "b.o"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := findObjects(dir, []string{"a_*.o"})
	if err != nil || !slices.Equal(got, []string{"usr/lib/x86_64-linux-gnu/bpf/a_1.o"}) {
		t.Errorf("found %v, %v", got, err)
	}
	if _, err := findObjects(dir, []string{"c*.o"}); err == nil || !strings.Contains(err.Error(), "c*.o") {
		t.Errorf("a missing object: %v", err)
	}
}
