package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/guesttest"
	"hookbed/driver/marker"
)

// machineForAgent starts, in a network namespace of its own, what the arguments say, with one end of a
// veth pair to borrow.
const machineForAgent = `set -e
ip link add eth1 address 02:00:00:00:00:01 type veth peer name far; ip address add 198.18.7.1/24 dev eth1; ip link set eth1 up; ip link set far up
ip route add 198.18.8.0/24 via 198.18.7.9
"$@" <&3 || true
echo ended; ip -br address show eth1; ip route show; ls -A "$DIR"`

// TestAgentKilled: where an agent is killed, or stopped for good, with what it lent and its helper at
// work, its supervisor puts the machine right, also if the NIC is a virtual one.
func TestAgentKilled(t *testing.T) {
	const long = "10m"
	for _, tt := range []struct {
		name    string
		signal  syscall.Signal
		abandon string // an agent that was stopped is killed soon after that; it may have ended itself by then
	}{{"killed", unix.SIGKILL, long}, {"stopped", unix.SIGSTOP, "4s"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			said := testAgentEnds(t, tt.abandon, func(agent int) { _ = unix.Kill(agent, tt.signal) })
			if want := "the agent ended before it put the machine right"; tt.abandon == long && !strings.Contains(said, want) {
				t.Errorf("it does not say %q:\n%s", want, said)
			}
		})
	}
}

// testAgentEnds ends an agent, looks at its machine, and returns what it said.
func testAgentEnds(t *testing.T, abandon string, end func(agent int)) string {
	t.Helper()
	dir := t.TempDir()
	m := marker.New("r1", "anna")
	for _, of := range []string{dir, filepath.Join(dir, "run-x")} {
		if err := os.MkdirAll(of, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(of, marker.File), []byte(m.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in, driver, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer driver.Close()
	machine := exec.Command("unshare", "--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys; "+machineForAgent, "sh", guesttest.Self(t), "agent",
		"--dir", dir, "--run", "run-x", "--token", m.Token, "--data", "eth1", "--cidr", "198.18.1.1/24", "--abandon-after", abandon, "--lock-wait", "1m")
	machine.Env = append(os.Environ(), "DIR="+dir)
	machine.ExtraFiles = []*os.File{in}
	var said bytes.Buffer
	machine.Stderr = &said
	stdout, err := machine.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	_, pid, found := strings.Cut(line, `"pid":`)
	agent, _ := strconv.Atoi(strings.TrimRight(strings.SplitN(pid, ",", 2)[0], "}\n"))
	if err != nil || !found || agent == 0 {
		_ = driver.Close()
		t.Fatalf("the agent says %q: %v %s", line, err, said.String())
	}
	end(agent)
	after, err := io.ReadAll(out)
	if err := machine.Wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"ended\neth1@far", "198.18.7.1/24", "198.18.8.0/24 via 198.18.7.9 dev eth1"} {
		if err != nil || !strings.Contains(string(after), want) {
			t.Errorf("no %q: %v\n%s%s", want, err, after, said.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	guesttest.Gone(t, agent)
	return said.String()
}
