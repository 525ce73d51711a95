package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sealed"
)

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
