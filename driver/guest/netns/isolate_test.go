package netns_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/netns"
)

// The test binary is also the program around the chroot, and that in it.
const (
	around = "around-a-chroot"
	inside = "inside-a-chroot"
)

func TestMain(m *testing.M) {
	acts := map[string]func(string) error{around: aroundChroot, inside: insideChroot}
	if act := acts[os.Args[1]]; len(os.Args) == 3 && act != nil {
		if err := act(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestIsolateInChroot: a program that is started in a plain chroot, of which the root is no mount
// point, gets namespaces of its own, and what it mounts remains there.
func TestIsolateInChroot(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"proc", "mnt"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", around, root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the process dies with the thread that starts it
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "isolated\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// aroundChroot starts insideChroot in a root whose mounts are shared with this process.
func aroundChroot(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", inside, "/mnt")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("inside: %w: %s", err, out)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte(filepath.Join(root, "mnt"))) {
		return fmt.Errorf("what was mounted inside is outside, too:\n%s", mounts)
	}
	fmt.Print(string(out))
	return nil
}

// insideChroot isolates itself and mounts something at a path.
func insideChroot(path string) error {
	outside, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if before := os.Getenv("OUTSIDE"); before != "" {
		outside = before
	} else if err := os.Setenv("OUTSIDE", outside); err != nil {
		return err
	}
	if err := netns.Isolate(); err != nil {
		return err
	}
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now == outside {
		return fmt.Errorf("the network namespace is %s, as outside: %w", now, err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !strings.Contains(string(mounts), " "+path+" ") {
		return fmt.Errorf("%s is not mounted: %w\n%s", path, err, mounts)
	}
	fmt.Println("isolated")
	return nil
}
