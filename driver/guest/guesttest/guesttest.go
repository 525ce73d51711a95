// Package guesttest is what the tests of several packages of the helper share: processes
// used as a container or a server, and functions that wait for processes.
package guesttest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// AcceptAll accepts TCP connections and closes them until it is ended.
func AcceptAll(network, port string) error {
	l, err := net.Listen(network, ":"+port)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
}

// Self is the path of the test binary, which may be started as another program.
func Self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// Gone waits a while for a process to end.
func Gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !alive(pid) {
			return
		}
	}
	t.Errorf("process %d still runs", pid)
}

// Processes lists the PIDs of processes with exactly these arguments.
func Processes(t *testing.T, argv ...string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, dir := range dirs {
		data, _ := os.ReadFile(dir + "/cmdline")
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if string(data) == strings.Join(argv, "\x00")+"\x00" && alive(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// Await waits until something is so, and fails the test where it never is.
func Await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v", Patience)
		}
	}
}

// MiniRoot makes a root file system with a shell in it.
func MiniRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	files := []string{"/bin/sh", "/bin/cat"}
	for _, f := range files {
		out, err := exec.Command("ldd", f).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, f), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "here"), []byte("inside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// StartContainer starts what is used as a container: a process with namespaces of its own.
func StartContainer(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "410065")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Chroot: ""}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// Patience only ends a test that hangs: a machine that is busy with other things
// may take long for anything.
const Patience = 2 * time.Minute

const (
	// RuleFile is a rule set for iptables, and RuleUndo what undoes it.
	RuleFile = "*filter\n:INPUT DROP [0:0]\n-A INPUT -s 198.18.1.2/32 -p tcp -m tcp --dport 5001 -j ACCEPT\n-A INPUT -s 198.19.0.7/32 -j DROP\nCOMMIT\n"
	RuleUndo = "*filter\n:INPUT ACCEPT [0:0]\n-F INPUT\nCOMMIT\n"
)
