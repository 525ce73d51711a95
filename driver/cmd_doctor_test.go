package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/doctor"
	"hookbed/images"
)

// TestDoctorInterrupted: ^C in the middle of a look is told as what it is, not as a
// fault of the computer. The look waits for an image that another process builds.
func TestDoctorInterrupted(t *testing.T) {
	dir := t.TempDir()
	locks := filepath.Join(dir, "cache", "hookbed", "locks")
	if err := os.MkdirAll(locks, 0o755); err != nil {
		t.Fatal(err)
	}
	building, err := os.Create(filepath.Join(locks, "kernel-"+images.DefaultKernel))
	if err != nil {
		t.Fatal(err)
	}
	defer building.Close()
	if err := unix.Flock(int(building.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd, _ := driverIn(dir, "doctor")
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	text := func() string {
		data, err := os.ReadFile(said.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	eventually(t, "doctor looks at images", func() error {
		if !strings.Contains(text(), "\ndoctor: images") {
			return fmt.Errorf("it says %s", text())
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // how it ended is looked at below
	if got := cmd.ProcessState.ExitCode(); got != exitInterrupted {
		t.Errorf("exit code %d, want %d", got, exitInterrupted)
	}
	_, after, _ := strings.Cut(text(), "\ndoctor: images")
	if strings.Contains(after, "FAIL") || strings.Contains(after, "fix:") || !strings.Contains(after, "driver: interrupted: nothing is left running") {
		t.Errorf("after the interrupt it says:\n%s", after)
	}
}

// TestDoctorAsOrdinaryUser: who cannot build images is told so, and waits for no
// package.
func TestDoctorAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user: run it as root")
	}
	const nobody = 65534
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, open := range []string{dir, filepath.Dir(dir), binaries} {
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "driver"), "doctor")
	cmd.Dir, cmd.Env = home, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	if got := cmd.ProcessState.ExitCode(); got != exitError {
		t.Errorf("exit code %d, want %d", got, exitError)
	}
	for _, want := range []string{"FAIL  root", "FAIL  images", "ok    trace plugin", "FAIL  accelerator", "is not in the cache", doctor.BuildAsRoot, "FAIL  virtual time", "doctor: images in the cache"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("doctor does not say %q", want)
		}
	}
	if strings.Contains("\n"+string(out), "\nimages: ") {
		t.Error("it began to fetch or build")
	}
	if t.Failed() {
		t.Logf("doctor says:\n%s", out)
	}
}

// TestDoctorQuick: it takes seconds on a computer whose cache is empty, names each check when it
// begins, and a KVM that does not open is a warning.
func TestDoctorQuick(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := driverIn(dir, "doctor", "--quick")
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	cmd.Stdout, cmd.Stderr = nil, nil
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("exit code %d: %v", cmd.ProcessState.ExitCode(), err)
	}
	if used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); used > 10*time.Second {
		t.Errorf("it used %s of CPU time, want less than 10 s", used)
	}
	for _, want := range []string{"doctor: tools\n", "doctor: disk and memory\n", "doctor: images in the cache\n", "doctor: accelerator: open KVM\n",
		"warn  images", "the first run builds them", "  accelerator "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("doctor --quick does not say %q", want)
		}
	}
	for _, not := range []string{"virtual time", "trace plugin", "images: fetch"} {
		if strings.Contains(string(out), not) {
			t.Errorf("doctor --quick says %q", not)
		}
	}
	if t.Failed() {
		t.Logf("doctor says:\n%s", out)
	}
	var text strings.Builder
	printCheck(&text, doctor.Check{Name: "accelerator", OK: true, Detail: "tcg", Warning: "KVM does not open"})
	if got := text.String(); !strings.HasPrefix(got, "warn  accelerator") || !strings.Contains(got, "KVM does not open") || strings.Contains(got, "fix:") {
		t.Errorf("a warning is %q", got)
	}
}
