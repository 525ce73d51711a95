package host_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hookbed/driver/host"
	"hookbed/driver/host/hosttest"
)

func openLocal(t *testing.T) host.Host {
	h := host.NewLocal()
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func TestLocalConforms(t *testing.T) { hosttest.Conform(t, openLocal) }

func TestLocalFullDisk(t *testing.T) { hosttest.FullDisk(t, openLocal(t), smallDisk(t)) }

func TestLocalLostLink(t *testing.T) {
	h := host.NewLocal()
	hosttest.LostLink(t, h, func() { _ = h.Close() })
}

// Threads that end while a command runs, as those do that were locked to a
// network namespace, must not end the command.
func TestLocalChildOutlivesOtherThreads(t *testing.T) {
	var out bytes.Buffer
	result := make(chan error, 1)
	go func() {
		result <- openLocal(t).Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", "sleep 0.5; echo alive"}, Stdout: &out})
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { runtime.LockOSThread() }) // ends with its thread
		}
		all.Wait()
	}
	if err := <-result; err != nil || out.String() != "alive\n" {
		t.Errorf("the command said %q and ended with %v", out.String(), err)
	}
}

func TestLocalChildDiesWithParent(t *testing.T) {
	// The parent is a test binary that runs one command.
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), childEnv+"=1")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	for limit := time.Now().Add(patience); !gone(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatalf("the child is still there %s after its parent was killed", patience)
		}
	}
}

// gone reports whether a process has ended; a zombie has.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}
