package vm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netns"
)

// NetNS is the path of the network namespace in which guests have their
// addresses; "" is that of this process.
func (h *Hypervisor) NetNS() string {
	if h.daemon == nil {
		return ""
	}
	return h.daemon.process.path("ns/net")
}

// Dialer dials guests from the network namespace that NetNS names. Addresses
// are IP:port, never names. It works until Close or Detach.
func (h *Hypervisor) Dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if h.cfg.Remote != nil {
		return h.cfg.Remote.Reach
	}
	if h.daemon == nil {
		return new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		// A name would be looked up by other threads, outside the namespace.
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return nil, fmt.Errorf("dial from the lab's network namespace: %w", err)
		}
		return dialIn(ctx, h.daemon.net, network, addr)
	}
}

// dialIn dials from a network namespace. The connection remains in that namespace.
func dialIn(ctx context.Context, ns netns.NsHandle, network, addr string) (conn net.Conn, err error) {
	err = inNamespace(ns, func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// inNamespace calls do on a thread that is in a network namespace for that time. Its
// goroutine is new, so that a thread that cannot return to its namespace ends with
// it.
func inNamespace(ns netns.NsHandle, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err = netns.Set(ns); err != nil {
			err = fmt.Errorf("enter the lab's network namespace: %w", err)
		} else {
			err = do()
		}
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
