package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/lab"
)

// onHost is the driver on a computer of another name and boot, whose state is in the same home. more
// are further options of unshare(1). It is the process that is started: unshare and sh become it.
func onHost(dir, host string, more []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	script := `hostname "$1"; mount --bind "$2" /proc/sys/kernel/random/boot_id; shift 2; exec "$@"`
	argv := append([]string{"--uts", "--mount"}, more...)
	argv = append(argv, "sh", "-ec", script, "sh", host, filepath.Join(dir, "boot-"+host), filepath.Join(binaries, "driver"))
	cmd := exec.Command("unshare", append(argv, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// TestHostsThatShareAHome: a driver does not touch the lab of one that runs on another computer, or in
// another PID namespace, but sees it. Both have the home in which the state is.
func TestHostsThatShareAHome(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces: run it as root")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"long.toml": longLocal, "two.toml": twoTrials,
		"boot-a": "00000000-0000-4000-8000-00000000000a\n", "boot-b": "00000000-0000-4000-8000-00000000000b\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run, said := onHost(dir, "a", nil, "run", "long.toml", "--out", "run")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = run.Wait() // how it ended is looked at below
		close(ended)
	}()
	t.Cleanup(func() {
		_ = run.Process.Kill() // may have ended
		<-ended
	})
	name := fmt.Sprintf("r%d", run.Process.Pid)
	root := filepath.Join(dir, "state", "hookbed", "labs")
	lives := func() error {
		labs, err := lab.Labs(root)
		if err == nil && (len(labs) != 1 || labs[0].Name != name) {
			err = fmt.Errorf("labs %+v", labs)
		}
		return err
	}
	eventually(t, "the run has a lab", lives)
	expect := func(exit int, want, host string, more []string, args ...string) {
		t.Helper()
		cmd, out := onHost(dir, host, more, args...)
		_ = cmd.Run() // its exit code says what there is to say
		if got := cmd.ProcessState.ExitCode(); got != exit || !strings.Contains(out.String(), want) {
			t.Errorf("driver %v on %s: exit code %d, want %d, and %q in\n%s", args, host, got, exit, want, out)
		}
		if err := lives(); err != nil {
			t.Errorf("after driver %v on %s: %v", args, host, err)
		}
	}
	inside := []string{"--pid", "--fork", "--kill-child", "--mount-proc"}
	expect(exitUsage, "on a, perhaps alive", "b", nil, "down")
	expect(exitOK, "is left alone", "b", nil, "down", "--all")
	expect(exitError, "this is b: take it down there", "b", nil, "down", name)
	expect(exitOK, "2 trials", "b", nil, "run", "two.toml", "--out", "two")
	expect(exitOK, "of another PID namespace, perhaps alive", "a", inside, "down", "--all")
	expect(exitOK, "2 trials", "a", inside, "run", "two.toml", "--out", "inside")
	select {
	case <-ended:
		t.Fatalf("the run of the other driver ended: %s", said)
	default:
	}
	down, out := onHost(dir, "a", nil, "down", name)
	if err := down.Run(); err != nil {
		t.Errorf("down of its own computer: %v\n%s", err, out)
	}
	<-ended
	if code := run.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("the run ended with exit code %d, want %d: %s", code, exitInterrupted, said)
	}
}
