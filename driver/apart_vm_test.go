//go:build vm

package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// apartEnv names the test that a process of the test binary is for.
const apartEnv = "HOOKBED_TEST_APART"

// atOnce are the tests of virtual machines that run at the same time. An emulated machine that boots
// uses one CPU, one that is measured uses little more, and every lab takes memory for two.
const atOnce = 2

// slots holds an entry for each test that runs apart.
var slots = make(chan struct{}, atOnce)

// apart runs the calling test once more, in a process with process numbers and mounts of its own,
// and says whether this is that process. The caller returns where it is not. A test that compares
// the programs and mounts of the computer before and after then sees its own and no others, while
// other tests, or other people, use the same computer; and no program of it outlives it. more are
// further options of unshare(1).
func apart(t *testing.T, more ...string) bool {
	t.Helper()
	if os.Getenv(apartEnv) == t.Name() {
		return true
	}
	slots <- struct{}{}
	defer func() { <-slots }()
	runtime.LockOSThread() // the process dies with the thread that starts it
	defer runtime.UnlockOSThread()
	args := append(more, "--pid", "--mount", "--fork", "--mount-proc", "--kill-child", "tini", "--", os.Args[0])
	args = append(args, apartArgs(t)...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), apartEnv+"="+t.Name(), binariesEnv+"="+binaries)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout = &out
	if testing.Verbose() {
		cmd.Stdout = io.MultiWriter(&out, os.Stdout) // seen at once
	}
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	if err == nil && strings.Contains(out.String(), "--- PASS: "+t.Name()+" ") {
		return false
	}
	if testing.Verbose() {
		out.Reset() // it was seen
	}
	t.Errorf("%v\n%s", err, out.String())
	return false
}

// apartArgs are the flags of the process for one test.
func apartArgs(t *testing.T) []string {
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v=true", "-test.timeout=0"}
	if end, ok := t.Deadline(); ok {
		const toSay = 10 * time.Second // for what it does when its time is over
		args[2] = "-test.timeout=" + max(time.Until(end)-toSay, time.Second).String()
	}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return args
}
