package step

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/probe"
)

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
	p := bundle.Probe{What: a.Handle, From: a.From, To: a.To, Port: a.Port, Want: bundle.Allow}
	conn, err := probe.OpenFlow(c.ctx, p, seconds(a.Timeout))
	if err != nil {
		forget(c.nl)
		return err
	}
	f := &sourcedFlow{conn, forget}
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

// sourcedFlow is a flow with the source addresses that were added for it.
type sourcedFlow struct {
	*probe.Flow
	forget func(*netlink.Handle)
}

// close ends the flow, and removes what was added by a handle in its namespace.
func (f *sourcedFlow) close(h *netlink.Handle) error {
	defer f.forget(h)
	return f.Flow.Close()
}

func (c *call) checkFlow(f *sourcedFlow, a bundle.Flow) error {
	if a.Want != "" && a.Want != bundle.Allow && a.Want != bundle.Deny {
		return fmt.Errorf("flow wants %q, not %s or %s", a.Want, bundle.Allow, bundle.Deny)
	}
	start := time.Now()
	err := f.Exchange(c.ctx, start.Add(seconds(a.Timeout)))
	silent := errors.Is(err, os.ErrDeadlineExceeded) && c.ctx.Err() == nil
	switch {
	case silent && a.Want == bundle.Deny:
		return nil
	case silent:
		return fault.Subject("%s: nothing came back within %g s", f, a.Timeout)
	case err != nil:
		return fault.Subject("%s is broken: %w", f, err)
	case a.Want == bundle.Deny:
		return fault.Subject("%s: bytes came back, want none within %g s", f, a.Timeout)
	}
	c.value("echo_seconds", time.Since(start).Seconds())
	return nil
}
