package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
)

// flow is an open connection whose other end sends back what it gets.
type flow struct {
	conn    *net.TCPConn
	where   string // for messages
	sent    uint64 // number of the last record sent; records are 8 bytes
	pending []byte // received, less than a record
	forget  func(*netlink.Handle)
}

func doFlow(c *call, a bundle.Flow) error {
	f := c.x.flows[a.Handle]
	switch {
	case a.Op == bundle.FlowOpen && (f != nil || a.Handle == ""):
		return fmt.Errorf("flow handle %q is taken", a.Handle)
	case a.Op == bundle.FlowOpen:
		return c.openFlow(a)
	case f == nil:
		return fmt.Errorf("no flow %q is open", a.Handle)
	case a.Op == bundle.FlowCheck:
		return c.checkFlow(f, a)
	case a.Op == bundle.FlowClose:
		delete(c.x.flows, a.Handle)
		return f.close(c.nl)
	default:
		return fmt.Errorf("flow %q: unknown operation %q, want %s, %s or %s", a.Handle, a.Op, bundle.FlowOpen, bundle.FlowCheck, bundle.FlowClose)
	}
}

func (c *call) openFlow(a bundle.Flow) error {
	forget, err := c.addSources(a.Link, []string{a.From})
	if err != nil {
		forget(c.nl)
		return err
	}
	conn, err := c.connectFlow(a)
	if err != nil {
		forget(c.nl)
		return err
	}
	f := &flow{conn: conn, where: fmt.Sprintf("flow %s -> %s", a.From, net.JoinHostPort(a.To, fmt.Sprint(a.Port))), forget: forget}
	c.x.flows[a.Handle] = f
	c.undoHere("flow "+a.Handle, func(u undoing) error {
		if c.x.flows[a.Handle] != f {
			return nil
		}
		delete(c.x.flows, a.Handle)
		return f.close(u.nl)
	})
	return c.checkFlow(f, bundle.Flow{Timeout: a.Timeout})
}

// connectFlow connects in the thread's namespace.
func (c *call) connectFlow(a bundle.Flow) (*net.TCPConn, error) {
	p := bundle.Probe{What: a.Handle, From: a.From, To: a.To, Port: a.Port, Want: bundle.Allow}
	t, err := dial(p)
	tries := []attempt{t}
	if err == nil {
		err = decideAll(c.ctx, tries, waits{answer: seconds(a.Timeout)})
	}
	t = tries[0] // its socket may be another one
	if got := t.got; err == nil && !got.established {
		err = subject("open flow: %s was %s", route(p), got.how)
	}
	if err != nil {
		hangUp(t.fd)
		return nil, err
	}
	file := os.NewFile(uintptr(t.fd), "flow "+a.Handle)
	defer file.Close()
	conn, err := net.FileConn(file) // a copy
	if err != nil {
		return nil, fmt.Errorf("open flow: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

func (f *flow) close(h *netlink.Handle) error {
	defer f.forget(h)
	// As for probes: no TIME_WAIT.
	return errors.Join(f.conn.SetLinger(0), f.conn.Close())
}

func (c *call) checkFlow(f *flow, a bundle.Flow) error {
	if a.Want != "" && a.Want != bundle.Allow && a.Want != bundle.Deny {
		return fmt.Errorf("flow wants %q, not %s or %s", a.Want, bundle.Allow, bundle.Deny)
	}
	start := time.Now()
	err := f.exchange(c.ctx, start.Add(seconds(a.Timeout)))
	silent := errors.Is(err, os.ErrDeadlineExceeded) && c.ctx.Err() == nil
	switch {
	case silent && a.Want == bundle.Deny:
		return nil
	case silent:
		return subject("%s: nothing came back within %g s", f.where, a.Timeout)
	case err != nil:
		return subject("%s is broken: %w", f.where, err)
	case a.Want == bundle.Deny:
		return subject("%s: bytes came back, want none within %g s", f.where, a.Timeout)
	}
	c.value("echo_seconds", time.Since(start).Seconds())
	return nil
}

// exchange sends the next record and reads until it is back. What comes before
// it are the answers to earlier records that were not waited for any longer.
func (f *flow) exchange(ctx context.Context, until time.Time) error {
	if err := f.conn.SetDeadline(until); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	f.sent++
	if _, err := f.conn.Write(binary.BigEndian.AppendUint64(nil, f.sent)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := f.conn.Read(buf)
		if err != nil {
			return err
		}
		f.pending = append(f.pending, buf[:n]...)
		for len(f.pending) >= 8 {
			got := binary.BigEndian.Uint64(f.pending)
			f.pending = f.pending[8:]
			if got == f.sent {
				return nil
			}
		}
	}
}
