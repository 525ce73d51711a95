package host_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"hookbed/driver/host"
)

const (
	// mountsEnv marks a test process that has its own mount namespace, so
	// that no other process sees what tests mount, and it ends with them.
	mountsEnv = "HOOKBED_TEST_MOUNTS"
	// childEnv makes the test binary run `sleep` as a child and wait.
	childEnv = "HOOKBED_TEST_CHILD"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		err := host.NewLocal().Run(context.Background(), host.Cmd{Argv: []string{"sh", "-c", "echo $$; exec sleep 1000"}, Stdout: os.Stdout})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(mountsEnv) == "" {
		// Returns only if it fails.
		err := syscall.Exec("/usr/bin/unshare", append([]string{"unshare", "--mount", "--propagation", "private"}, os.Args...), append(os.Environ(), mountsEnv+"=private"))
		fmt.Fprintln(os.Stderr, "start the tests in a mount namespace of their own (they need root and util-linux):", err)
		os.Exit(1)
	}
	if err := quietLogin(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// quietLogin hides the files that bash would run at the start of every command of
// sshd; they may take long.
func quietLogin() error {
	const path = "/root/.bashrc"
	err := syscall.Mount("/dev/null", path, "", syscall.MS_BIND, "")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("hide %s (needs root): %w", path, err)
}

// smallDisk mounts a tmpfs of 2 MiB for the test.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("hookbed-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}
