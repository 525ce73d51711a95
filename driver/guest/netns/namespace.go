// Package netns makes, opens and enters network namespaces, and puts the helper itself into
// some of its own.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace kept by its file descriptor.
type Namespace struct {
	name string // endpoint, or "" for the node's own
	File *os.File
}

// Current opens the network namespace of the calling thread.
func Current(name string) (*Namespace, error) {
	return Open(name, "/proc/thread-self/ns/net")
}

// Open opens the namespace at a path: of a process in /proc, or mounted. The name is for
// messages.
func Open(name, path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", name, err)
	}
	return &Namespace{name: name, File: f}, nil
}

// Inherited is a namespace whose descriptor this process was started with. Programs that it starts do
// not get it.
func Inherited(name string, fd int) (*Namespace, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("network namespace %q is not descriptor %d: %w", name, fd, err)
	}
	return &Namespace{name: name, File: os.NewFile(uintptr(fd), name)}, nil
}

// FD is the namespace's descriptor; an error wraps os.ErrClosed once it was
// dropped.
func (n *Namespace) FD() (int, error) {
	c, err := n.File.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("network namespace %q: %w", n.name, err)
	}
	fd := -1
	if err := c.Control(func(p uintptr) { fd = int(p) }); err != nil {
		return -1, fmt.Errorf("network namespace %q: %w", n.name, os.ErrClosed)
	}
	return fd, nil
}

// Close drops the descriptor; the namespace lives on where something else is in it.
func (n *Namespace) Close() error { return n.File.Close() }

// Same reports whether two descriptors are of one namespace.
func (n *Namespace) Same(other *Namespace) bool {
	a, err := n.File.Stat()
	b, err2 := other.File.Stat()
	return err == nil && err2 == nil && os.SameFile(a, b)
}

// Enter moves the calling thread, which must be locked, into the namespace.
func (n *Namespace) Enter() error {
	fd, err := n.FD()
	if err != nil {
		return err
	}
	if err := netns.Set(netns.NsHandle(fd)); err != nil {
		return fmt.Errorf("enter network namespace %q: %w", n.name, err)
	}
	return nil
}

// Do runs fn on a thread of its own inside the namespace. The thread returns
// to where it was; when it cannot, it ends instead of being used again. A
// panic of fn comes back as an error, because a helper that dies undoes
// nothing.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		var err error
		runtime.LockOSThread()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			done <- err
		}()
		err = visit(n, fn)
	}()
	return <-done
}

// visit runs fn in n and unlocks the thread only if it is home again.
func visit(n *Namespace, fn func() error) error {
	home, err := Current("home")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := n.Enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if home.Enter() == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// New makes an anonymous network namespace with loopback up.
func New(from *Namespace, name string) (*Namespace, error) {
	var ns *Namespace
	err := from.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %q: %w", name, err)
		}
		var err error
		if ns, err = Current(name); err != nil {
			return err
		}
		return LoopbackUp()
	})
	if err != nil && ns != nil {
		_ = ns.Close()
	}
	return ns, err
}

// LoopbackUp sets lo up in the calling thread's namespace.
func LoopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// WithNetlink runs fn with a netlink socket of the namespace, on a thread in
// it.
func (n *Namespace) WithNetlink(fn func(*netlink.Handle) error) error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		return fn(h)
	})
}
