package step

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/probe"
	"hookbed/driver/netdump"
)

func doProbes(c *call, a bundle.Probes) error {
	var sources []string
	for _, p := range a.Tries {
		if p.Want != bundle.Allow && p.Want != bundle.Deny {
			return fmt.Errorf("probe %q wants %q, not %s or %s", p.What, p.Want, bundle.Allow, bundle.Deny)
		}
		sources = append(sources, p.From)
	}
	remove, err := c.addSources(a.Link, sources)
	defer func() { remove(c.nl) }()
	if err != nil {
		return err
	}
	silence := seconds(a.Timeout)
	got, err := probe.TryAll(c.ctx, a.Tries, probe.Waits{Answer: max(silence, c.x.answerLimit), Silence: silence})
	if err != nil {
		return err
	}
	return c.judgeProbes(a.Tries, got)
}

func doRefusals(c *call, a bundle.Refusals) error {
	if a.Try.Want != bundle.Deny || a.Times < 1 {
		return fmt.Errorf("probe %q wants %q, %d times; what is repeated wants %s, once at least", a.Try.What, a.Try.Want, a.Times, bundle.Deny)
	}
	remove, err := c.addSources(a.Link, []string{a.Try.From})
	defer func() { remove(c.nl) }()
	if err != nil {
		return err
	}
	got, err := probe.Repeat(c.ctx, a.Try, a.Times, seconds(a.Timeout))
	if err != nil {
		return err
	}
	denied := 0
	for _, o := range got {
		if o.Denied {
			denied++
		}
	}
	c.value("denied", float64(denied))
	for i, o := range got {
		if !o.Denied {
			return fault.Subject("%s: attempt %d of %d, %s, was %s, want %s", a.Try.What, i+1, a.Times, probe.Route(a.Try), o.How, bundle.Deny)
		}
	}
	return nil
}

// judgeProbes counts outcomes, and names every probe that went wrong.
func (c *call) judgeProbes(tries []bundle.Probe, got []probe.Outcome) error {
	var wrong []string
	allowed, denied := 0, 0
	for i, p := range tries {
		if got[i].Established {
			allowed++
		}
		if got[i].Denied {
			denied++
		}
		if ok := p.Want == bundle.Allow && got[i].Established || p.Want == bundle.Deny && got[i].Denied; !ok {
			wrong = append(wrong, fmt.Sprintf("%s: %s was %s, want %s", p.What, probe.Route(p), got[i].How, p.Want))
		}
	}
	c.value("allowed", float64(allowed))
	c.value("denied", float64(denied))
	if len(wrong) > 0 {
		return fault.Subject("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// addSources gives a link the source addresses that the step's namespace
// lacks. remove takes them away again, by a handle in the namespace, and is
// never nil.
func (c *call) addSources(link string, sources []string) (remove func(*netlink.Handle), err error) {
	var added []*netlink.Addr
	var l netlink.Link
	remove = func(h *netlink.Handle) {
		for _, addr := range added {
			_ = h.AddrDel(l, addr)
		}
	}
	have, err := netdump.Whole(func() ([]netlink.Addr, error) { return c.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return remove, fmt.Errorf("list addresses: %w", err)
	}
	present := map[netip.Addr]bool{}
	for _, addr := range have {
		if ip, ok := netip.AddrFromSlice(addr.IP); ok {
			present[ip.Unmap()] = true
		}
	}
	for _, from := range sources {
		ip, err := netip.ParseAddr(from)
		if err != nil {
			return remove, fmt.Errorf("source %q: %w", from, err)
		}
		if present[ip] {
			continue
		}
		if l == nil {
			if l, err = c.link(link); err != nil {
				return remove, err
			}
		}
		addr, err := netns.ParseAddr(netip.PrefixFrom(ip, ip.BitLen()).String())
		if err != nil {
			return remove, fmt.Errorf("source %q: %w", from, err)
		}
		if err := c.nl.AddrAdd(l, addr); err != nil {
			return remove, fmt.Errorf("add source %s to %s: %w", from, link, err)
		}
		present[ip] = true
		added = append(added, addr)
	}
	return remove, nil
}
