package netns

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

	"hookbed/driver/guest/sysfs"
)

// hostFactsEnv passes the machine's global sysctls from the process outside to
// the same process inside its namespaces; its presence says "inside".
const hostFactsEnv = "HOOKBED_HOST_SYSCTLS"

// hostNetEnv passes on the descriptor of the network namespace outside, in
// which global sysctls can still be read when they count.
const hostNetEnv = "HOOKBED_HOST_NETNS"

// Isolate puts the whole process into network and mount namespaces of its own.
// Go cannot move all threads of a process, so the calling thread is moved and
// the program started anew on it, with the same PID. Outside it does not
// return unless it fails; inside it finishes the namespaces.
func Isolate() error {
	if os.Getenv(hostFactsEnv) != "" {
		return furnish()
	}
	runtime.LockOSThread()
	outside, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0) // not closed on exec
	if err != nil {
		return fmt.Errorf("open network namespace outside: %w", err)
	}
	env, err := EnvOfOutside(outside)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make the node's namespaces: %w", err)
	}
	self := ownProgram()
	err = unix.Exec(self, os.Args, append(os.Environ(), env...))
	return fmt.Errorf("start %s anew: %w", self, err)
}

// ownProgram is a path by which this program can be started anew: its file's, which names the
// process, or the kernel's link to it. Of a program that was started from another mount namespace the
// kernel states the file's path there, and in a chroot that is another file, or none.
func ownProgram() string {
	const link = "/proc/self/exe"
	path, err := os.Executable()
	if err != nil {
		return link
	}
	named, err := os.Stat(path)
	if err != nil {
		return link
	}
	if linked, err := os.Stat(link); err != nil || !os.SameFile(named, linked) {
		return link
	}
	return path
}

// EnvOfOutside is what a helper in namespaces of its own has in its environment: the
// global sysctls as the calling thread reads them, and the number of the descriptor
// under which the helper has the network namespace outside.
func EnvOfOutside(fd int) ([]string, error) {
	facts := map[string]string{}
	sysfs.SysctlFacts(facts, sysfs.GlobalSysctls())
	data, err := json.Marshal(facts)
	if err != nil {
		return nil, fmt.Errorf("encode sysctls: %w", err)
	}
	return []string{hostFactsEnv + "=" + string(data), fmt.Sprintf("%s=%d", hostNetEnv, fd)}, nil
}

// furnish makes the namespaces usable: mounts stay inside, loopback is up.
func furnish() error {
	if fd, ok := outsideFD(); ok {
		unix.CloseOnExec(fd) // not for what the helper starts
	}
	if err := PrivateMounts(); err != nil {
		return err
	}
	return LoopbackUp()
}

// PrivateMounts keeps all mounts that are made in the mount namespace of the calling thread inside it.
// Only what is mounted can be made private, and in a chroot "/" need not be (mount_setattr(2) and
// fs/namespace.c, do_change_type): then this is done from the root of the namespace.
func PrivateMounts() error {
	const flags = unix.MS_REC | unix.MS_PRIVATE
	err := unix.Mount("", "/", "", flags, "")
	if errors.Is(err, unix.EINVAL) {
		err = atNamespaceRoot(func() error { return unix.Mount("", "/", "", flags, "") })
	}
	if err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// atNamespaceRoot has a function called on a thread of its own in the calling thread's mount
// namespace, with its root as "/": setns(2) leads there, and from a chroot, too.
func atNamespaceRoot(act func() error) error {
	fd, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open own mount namespace: %w", err)
	}
	defer unix.Close(fd)
	return onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return act()
	})
}

// onThreadOfItsOwn calls a function on a thread that ends with it. It is not the first one, which
// never ends, and whose root is in /proc that of the process.
func onThreadOfItsOwn(act func() error) error {
	acted := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			acted <- act() // never unlocked
			return
		}
		defer runtime.UnlockOSThread()
		acted <- onThreadOfItsOwn(act) // this one is taken meanwhile
	}()
	return <-acted
}

// HostSysctls are the machine's global sysctls: passed on when the process
// is isolated, read here otherwise.
func HostSysctls() map[string]string {
	f := map[string]string{}
	if text := os.Getenv(hostFactsEnv); text != "" {
		if json.Unmarshal([]byte(text), &f) == nil {
			return f
		}
	}
	sysfs.SysctlFacts(f, sysfs.GlobalSysctls())
	return f
}

// outsideFD is the descriptor in hostNetEnv, if the process is isolated.
func outsideFD() (int, bool) {
	fd, err := strconv.Atoi(os.Getenv(hostNetEnv))
	return fd, err == nil
}

// OpenOutside opens the network namespace in which the helper was started: that outside,
// if the process is isolated.
func OpenOutside() (*Namespace, error) {
	path := "/proc/self/ns/net"
	if fd, ok := outsideFD(); ok {
		path = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	return Open("of the machine", path)
}

// MountRoot mounts in an endpoint root file system what processes expect
// there. Only for a private mount namespace, with which the mounts go away.
func MountRoot(root string) error {
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
