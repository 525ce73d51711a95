package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostFactsEnv hands the machine's global sysctls from the process outside to
// the same process inside its namespaces; its presence says "inside".
const hostFactsEnv = "HOOKBED_HOST_SYSCTLS"

// hostNetEnv hands down the descriptor of the network namespace outside, in
// which global sysctls can still be read when they count.
const hostNetEnv = "HOOKBED_HOST_NETNS"

// isolate puts the whole process into network and mount namespaces of its own.
// Go cannot move all threads of a process, so the calling thread is moved and
// the program started anew on it, with the same PID. Outside it does not
// return unless it fails; inside it finishes the namespaces.
func isolate() error {
	if os.Getenv(hostFactsEnv) != "" {
		return furnish()
	}
	runtime.LockOSThread()
	facts := map[string]string{}
	sysctlFacts(facts, globalSysctls())
	data, err := json.Marshal(facts)
	if err != nil {
		return fmt.Errorf("encode sysctls: %w", err)
	}
	outside, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0) // not closed on exec
	if err != nil {
		return fmt.Errorf("open network namespace outside: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make the node's namespaces: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), hostFactsEnv+"="+string(data), fmt.Sprintf("%s=%d", hostNetEnv, outside)))
	return fmt.Errorf("start %s anew: %w", self, err)
}

// furnish makes the namespaces usable: mounts stay inside, loopback is up.
func furnish() error {
	if fd, ok := outsideFD(); ok {
		unix.CloseOnExec(fd) // not for what the helper starts
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return loopbackUp()
}

// hostSysctls are the machine's global sysctls: handed down when the process
// is isolated, read here otherwise.
func hostSysctls() map[string]string {
	f := map[string]string{}
	if text := os.Getenv(hostFactsEnv); text != "" {
		if json.Unmarshal([]byte(text), &f) == nil {
			return f
		}
	}
	sysctlFacts(f, globalSysctls())
	return f
}

// outsideFD is the descriptor in hostNetEnv, if the process is isolated.
func outsideFD() (int, bool) {
	fd, err := strconv.Atoi(os.Getenv(hostNetEnv))
	return fd, err == nil
}

// readJIT reads the sysctls of the BPF JIT compiler as they are now, under the
// names of the facts. The kernel shows them in the machine's first network
// namespace only; where the helper was not started in that, a program tells.
func readJIT() (map[string]string, error) {
	path := "/proc/self/ns/net"
	if fd, ok := outsideFD(); ok {
		path = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	ns, err := openNamespace("of the machine", path)
	if err != nil {
		return nil, err
	}
	defer ns.file.Close()
	got := map[string]string{}
	err = ns.do(func() error {
		sysctlFacts(got, []string{"net.core.bpf_jit_enable", "net.core.bpf_jit_harden"})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return got, fillJIT(got)
}

// mountRoot mounts in an endpoint root file system what processes expect
// there. Only for a private mount namespace, with which the mounts go away.
func mountRoot(root string) error {
	if root == "" || filepath.Clean(root) == "/" {
		return nil
	}
	if !strings.HasPrefix(root, "/") {
		return fmt.Errorf("endpoint root %q is not an absolute path", root)
	}
	mounts := []struct {
		source, dir, kind string
		flags             uintptr
		data              string
	}{
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	}
	for _, m := range mounts {
		target := filepath.Join(root, m.dir)
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("prepare endpoint root: %w", err)
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	return nil
}
