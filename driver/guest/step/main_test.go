package step

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sealed"
)

// TestMain lets the test binary stand in for the first process of a PID namespace or of a
// machine, for a helper that executes a bundle, and for a server.
func TestMain(m *testing.M) {
	runtime.LockOSThread() // as the helper's main does
	// Not every first process is a machine's: that of a PID namespace must not mount over
	// this computer's own /proc.
	if sealed.IsFirstProcess() && os.Getenv(machineTest) != "" {
		inMachine()
	}
	standIn()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case proc.FirstProcessCommand:
			end(proc.FirstProcess(os.Args[2:]...))
		case RequestsCommand:
			end(MakeRequests(context.Background(), os.Stdin, os.Stdout))
		case "exec":
			end(runIsolated(os.Args[2]))
		case "test-server":
			end(guesttest.AcceptAll("tcp4", os.Args[2]))
		case "test-server6":
			end(guesttest.AcceptAll("tcp6", os.Args[2]))
		}
	}
	if os.Getuid() != 0 {
		end(errors.New("the helper's tests make network namespaces and must run as root"))
	}
	os.Exit(m.Run())
}

// runIsolated executes a bundle in namespaces of its own.
func runIsolated(path string) error {
	if err := netns.Isolate(); err != nil {
		return err
	}
	return RunBundle(context.Background(), os.Stdout, BundleOptions{File: path, Blobs: filepath.Dir(path), Private: true})
}

// end ends the process.
func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// machineTest is in the environment of the first process of a machine that a
// test started.
const machineTest = "HOOKBED_TEST_MACHINE"

// testsEnded is the last line that such a machine prints, before how: <nil> where
// the tests passed.
const testsEnded = "HOOKBED-TESTS-ENDED "

// moreTests holds the tests of other packages that a machine runs after its own;
// every file is a program.
const moreTests = "/run/hookbed/tests"

// inMachine is the first process of a virtual machine: it runs the tests, as a
// sealed guest does its helpers, in processes of their own, and ends the machine.
func inMachine() {
	err := errors.Join(os.Setenv("PATH", proc.BinDirs), sealed.PrepareMachine())
	if err == nil {
		err = runTests("/proc/self/exe", os.Args[1:]...)
	}
	more, _ := os.ReadDir(moreTests)
	for _, e := range more {
		err = errors.Join(err, runTests(filepath.Join(moreTests, e.Name()), "-test.v", "-test.skip="+notInMachines))
	}
	fmt.Printf("%s%v\n", testsEnded, err)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		panic(err) // the end of the first process is the kernel's too
	}
}

// notInMachines are tests of other packages that need a compiler, or a
// computer whose time is its own.
const notInMachines = "^(TestHashesAreFlat|TestGeneratedFilesAreCurrent)$"

// runTests runs a program of tests and prints what it says but for the two lines of
// each subtest that passed: an emulated console takes 50 kB a second, and there are
// 20 000.
func runTests(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if !passedSubtest.MatchString(line) {
			fmt.Print(line)
		}
		if err != nil {
			break // the end, which Wait says more of
		}
	}
	return cmd.Wait()
}

var passedSubtest = regexp.MustCompile(`^(=== (RUN|PAUSE|CONT) .*/|=== (PAUSE|CONT) |\s+--- PASS)`)
