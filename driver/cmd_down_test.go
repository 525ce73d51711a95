package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/lab"
)

const longLocal = `schema = 1
name = "long"
seed = 7
[lab]
provider = "local"
endpoint = "netns"
[measure]
blocks = 1
trials = 1
duration = "600s"
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [2]
[[arm]]
name = "docker"
datapath = "docker"
`

// driverIn is the real driver in a directory, with its state there.
func driverIn(dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(filepath.Join(binaries, "driver"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// TestDownOfALivingLab: the lab of a run under way is listed with its owner, is left
// alone by all but its name, and by its name it ends as by an interrupt.
func TestDownOfALivingLab(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "long.toml"), []byte(longLocal), 0o600); err != nil {
		t.Fatal(err)
	}
	run, said := driverIn(dir, "run", "long.toml", "--out", "run")
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
	root := filepath.Join(dir, "state", "hookbed", "labs")
	eventually(t, "the run has a lab", func() error {
		labs, err := lab.Labs(root)
		if err == nil && (len(labs) != 1 || labs[0].Driver.PID != run.Process.Pid) {
			err = fmt.Errorf("labs %+v", labs)
		}
		return err
	})
	name := fmt.Sprintf("r%d", run.Process.Pid)
	expect := func(exit int, want string, args ...string) {
		t.Helper()
		cmd, out := driverIn(dir, args...)
		var failed *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != exit || !strings.Contains(out.String(), want) {
			t.Errorf("driver %v: exit code %d, want %d and %q:\n%s", args, got, exit, want, out)
		}
	}
	alive := fmt.Sprintf("PID %d, alive", run.Process.Pid)
	expect(exitUsage, alive, "down")
	expect(exitOK, "lab "+name+" is left alone", "down", "--all")
	select {
	case <-ended:
		t.Fatalf("the run ended, though its lab was not named:\n%s", said)
	default:
	}
	expect(exitOK, "taken down: "+name, "down", name)
	<-ended
	if code := run.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d of the run, want %d:\n%s", code, exitInterrupted, said)
	}
	if labs, err := lab.Labs(root); err != nil || len(labs) > 0 {
		t.Errorf("left: %+v, %v", labs, err)
	}
	expect(exitOK, "nothing to take down", "down")
}
