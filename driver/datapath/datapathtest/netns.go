package datapathtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// netns is a network namespace that a helper holds, as the test sees it.
type netns struct {
	name string
	file *os.File
	id   string // "net:[4026532001]"
}

// lockedStart starts a command on the calling goroutine's thread, which stays
// with it: the kernel ends such a child with its thread.
func lockedStart(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	return cmd.Start()
}

// openNetns finds the namespace in which the helper executes steps of a node
// or endpoint, by asking it, and opens it among the helper's descriptors.
func openNetns(h *helper, name string) (*netns, error) {
	const out = "netns"
	step := bundle.Step{Node: name, Phase: bundle.Run, In: name, Do: bundle.Exec{Argv: []string{"readlink", "/proc/self/ns/net"}, Timeout: 120, Out: out}}
	reply, err := h.exec(nil, []bundle.Step{step})
	if err != nil {
		return nil, fmt.Errorf("find namespace %s: %w", name, err)
	}
	id := strings.TrimSpace(reply.Raw[out])
	dir := fmt.Sprintf("/proc/%d/fd", h.pid())
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("find namespace %s: %w", name, err)
	}
	for _, e := range fds {
		fd := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(fd); err == nil && target == id {
			f, err := os.Open(fd)
			return &netns{name, f, id}, err
		}
	}
	return nil, fmt.Errorf("find namespace %s: the helper does not hold %q", name, id)
}

func (p *netns) close() { _ = p.file.Close() }

// do runs fn on a thread of its own in the namespace. The thread ends with it;
// sockets that fn opened stay.
func (p *netns) do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", p.name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// run runs a tool in the namespace and returns what it printed.
func (p *netns) run(argv ...string) (string, error) { return p.feed("", argv...) }

// feed is run with something on the tool's standard input.
func (p *netns) feed(input string, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := p.do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
		return cmd.Run()
	})
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), p.name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// awaitAddresses waits until the namespace's addresses are final: duplicate address
// detection of IPv6 takes a second.
func (p *netns) awaitAddresses() error {
	for end := time.Now().Add(allowLimit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		out, err := p.run("ip", "-6", "-o", "addr", "show", "tentative")
		if err != nil || strings.TrimSpace(out) == "" {
			return err
		}
	}
	return fmt.Errorf("addresses of %s stay tentative", p.name)
}
