//go:build vm

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// vmRig runs the real driver with a state directory of the test's own.
type vmRig struct {
	t   *testing.T
	dir string
}

func newVMRig(t *testing.T) *vmRig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("VM tests start virtual machines: run them as root")
	}
	r := &vmRig{t: t, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(r.dir, "vm.toml"), []byte(vmExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *vmRig) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(filepath.Join(binaries, "driver"), args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(r.dir, "state"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func (r *vmRig) run(args ...string) string {
	r.t.Helper()
	cmd, out := r.command(args...)
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("driver %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out.String()
}

// longest ends a wait for a driver that hangs: a busy computer may take long for anything.
const longest = 20 * time.Minute

// drivenRun is a driver under way.
type drivenRun struct {
	cmd   *exec.Cmd
	out   *bytes.Buffer // read after the end
	ended chan struct{}
}

func (r *vmRig) start(args ...string) *drivenRun {
	r.t.Helper()
	cmd, out := r.command(args...)
	return startDriver(r.t, cmd, out)
}

// startDriver starts a driver, which ends with the test.
func startDriver(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer) *drivenRun {
	t.Helper()
	r := &drivenRun{cmd: cmd, out: out, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is the test's matter
		close(r.ended)
	}()
	t.Cleanup(r.kill)
	return r
}

func (r *drivenRun) kill() {
	_ = r.cmd.Process.Kill() // may have ended
	<-r.ended
}

// until waits until reached has no error any more. It fails the test where the driver ended before.
func (r *drivenRun) until(t *testing.T, reached func() error) {
	t.Helper()
	for limit := time.Now().Add(longest); ; time.Sleep(100 * time.Millisecond) {
		err := reached()
		if err == nil {
			return
		}
		select {
		case <-r.ended:
			t.Fatalf("%v ended by itself: %v\n%s", r.cmd.Args, err, r.out)
		default:
		}
		if time.Now().After(limit) {
			r.kill()
			t.Fatalf("%v: %v\n%s", r.cmd.Args, err, r.out)
		}
	}
}

// machineState is everything a run could leave on this computer.
func machineState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, argv := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-br", "addr"}, {"ip", "route"}, {"ip", "netns", "list"},
		{"sysctl", "-n", "net.ipv4.ip_forward"}, {"ls", "/run/libvirt", "/etc/libvirt", "/var/lib/libvirt/qemu"},
	} {
		out, _ := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		b.WriteString(strings.Join(argv, " ") + ":\n" + string(out))
	}
	b.WriteString("mounts:\n" + strings.Join(mounts(t), "\n") + "\n")
	b.WriteString("processes:\n" + strings.Join(strayProcesses(t), "\n"))
	return b.String()
}

// mounts lists where file systems are mounted, but for the temporary directories of other tests, which
// may come and go.
func mounts(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("findmnt", "-rn", "-o", "TARGET").Output()
	if err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(os.TempDir(), "Test")
	name, _, _ := strings.Cut(t.Name(), "/")
	own := filepath.Join(os.TempDir(), name)
	return slices.DeleteFunc(strings.Split(string(out), "\n"), func(at string) bool {
		return strings.HasPrefix(at, tests) && !strings.HasPrefix(at, own)
	})
}

// strayProcesses lists the programs of this computer that a lab starts.
func strayProcesses(t *testing.T) []string {
	t.Helper()
	var out []string
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range comms {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		name := strings.TrimSpace(string(data))
		for _, ours := range []string{"libvirtd", "qemu-system", "tini", "dnsmasq", "guest", "iperf3", "netserver", "netperf"} {
			if strings.HasPrefix(name, ours) {
				out = append(out, name)
			}
		}
	}
	sort.Strings(out)
	return out
}

func (r *vmRig) expectSame(before string) {
	r.t.Helper()
	var after string
	for range 50 { // the kernel takes a moment to drop a namespace
		if after = machineState(r.t); after == before {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if after != before {
		r.t.Errorf("the computer is not as it was\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "state/hookbed/labs/*")); len(left) > 0 {
		r.t.Errorf("lab state left: %v", left)
	}
}

func (r *vmRig) expectTrials(rows string, want int) {
	r.t.Helper()
	seen, err := trialsIn(filepath.Join(r.dir, rows))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(seen) != want {
		r.t.Fatalf("%d trials in %s, want %d", len(seen), rows, want)
	}
}

// killMachine kills the QEMU process that has a text in its command line, a
// moment after it is there: libvirt has let it go, and its kernel is on the way.
func killMachine(t *testing.T, text string) {
	t.Helper()
	eventually(t, "a machine boots", func() error {
		if pid, ok := machine(func(argv string) bool { return strings.Contains(argv, text) }); ok {
			time.Sleep(time.Second)
			return syscall.Kill(pid, syscall.SIGKILL)
		}
		return errors.New("no QEMU yet")
	})
}

// machine finds a QEMU process by its command line, whose arguments end with NUL.
func machine(is func(argv string) bool) (pid int, ok bool) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		argv, _ := os.ReadFile(file) // it may have ended
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && strings.Contains(string(argv), "qemu-system") && is(string(argv)) {
			return pid, true
		}
	}
	return 0, false
}
