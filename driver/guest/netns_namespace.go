package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace kept by its file descriptor.
type namespace struct {
	name string // endpoint, or "" for the node's own
	file *os.File
}

// currentNamespace opens the network namespace of the calling thread.
func currentNamespace(name string) (*namespace, error) {
	return openNamespace(name, "/proc/thread-self/ns/net")
}

func openNamespace(name, path string) (*namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", name, err)
	}
	return &namespace{name: name, file: f}, nil
}

// fd is the namespace's descriptor; an error wraps os.ErrClosed once it was
// dropped.
func (n *namespace) fd() (int, error) {
	c, err := n.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("network namespace %q: %w", n.name, err)
	}
	fd := -1
	if err := c.Control(func(p uintptr) { fd = int(p) }); err != nil {
		return -1, fmt.Errorf("network namespace %q: %w", n.name, os.ErrClosed)
	}
	return fd, nil
}

// close drops the descriptor; the namespace lives on where something else is in it.
func (n *namespace) close() error { return n.file.Close() }

// same reports whether two descriptors are of one namespace.
func (n *namespace) same(other *namespace) bool {
	a, err := n.file.Stat()
	b, err2 := other.file.Stat()
	return err == nil && err2 == nil && os.SameFile(a, b)
}

// enter moves the calling thread, which must be locked, into the namespace.
func (n *namespace) enter() error {
	fd, err := n.fd()
	if err != nil {
		return err
	}
	if err := netns.Set(netns.NsHandle(fd)); err != nil {
		return fmt.Errorf("enter network namespace %q: %w", n.name, err)
	}
	return nil
}

// do runs fn on a thread of its own inside the namespace. The thread returns
// to where it was; when it cannot, it ends instead of being used again. A
// panic of fn comes back as an error, because a helper that dies undoes
// nothing.
func (n *namespace) do(fn func() error) error {
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
func visit(n *namespace, fn func() error) error {
	home, err := currentNamespace("home")
	if err != nil {
		return err
	}
	defer home.close()
	if err := n.enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if home.enter() == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// newNamespace makes an anonymous network namespace with loopback up.
func newNamespace(from *namespace, name string) (*namespace, error) {
	var ns *namespace
	err := from.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %q: %w", name, err)
		}
		var err error
		if ns, err = currentNamespace(name); err != nil {
			return err
		}
		return loopbackUp()
	})
	if err != nil && ns != nil {
		_ = ns.close()
	}
	return ns, err
}

// loopbackUp sets lo up in the calling thread's namespace.
func loopbackUp() error {
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

// withNetlink runs fn with a netlink socket of the namespace, on a thread in
// it.
func (n *namespace) withNetlink(fn func(*netlink.Handle) error) error {
	return n.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		return fn(h)
	})
}
