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
// addresses; "" is this process's.
func (h *Hypervisor) NetNS() string {
	if h.daemon == nil {
		return ""
	}
	return h.daemon.process.path("ns/net")
}

// Dialer dials guests from the network namespace that NetNS names. Addresses
// are IP:port, never names. It works until Close or Detach.
func (h *Hypervisor) Dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
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

// dialIn dials on a thread that is in a network namespace meanwhile. The
// goroutine is new, so that a thread which cannot go back ends with it.
func dialIn(ctx context.Context, ns netns.NsHandle, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{err: fmt.Errorf("open own network namespace: %w", err)}
			return
		}
		defer home.Close()
		var r result
		if err := netns.Set(ns); err != nil {
			r.err = fmt.Errorf("enter the lab's network namespace: %w", err)
		} else {
			r.conn, r.err = new(net.Dialer).DialContext(ctx, network, addr)
		}
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- r
	}()
	r := <-done
	return r.conn, r.err
}
