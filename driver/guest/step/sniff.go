package step

import (
	"context"
	"fmt"
	"os"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/probe"
	"hookbed/driver/guest/proc"
)

func doSniff(c *call, a bundle.Sniff) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	s, err := probe.NewSniffer(l.Attrs().Index, uint16(a.Port))
	if err != nil {
		return fmt.Errorf("look at the packets of %s: %w", a.Link, err)
	}
	c.x.sniffers[a.Handle] = s
	c.keepServer(a.Handle, func(context.Context) error {
		delete(c.x.sniffers, a.Handle)
		return s.Close()
	})
	return nil
}

func (x *executor) readSniff(a bundle.SniffCounter) (counters, error) {
	s, ok := x.sniffers[a.Handle]
	if !ok {
		return nil, fmt.Errorf("nothing is sniffed as %q", a.Handle)
	}
	return s.Counts(a.VNIs)
}

// readLink reads the counters of a link, and how much its namespace fragments.
func (c *call) readLink(a bundle.LinkCounter) (counters, error) {
	l, err := c.link(a.Link)
	if err != nil {
		return nil, err
	}
	s := l.Attrs().Statistics
	if s == nil {
		return nil, fmt.Errorf("link %s has no counters", a.Link)
	}
	got := counters{"rx_packets": s.RxPackets, "rx_bytes": s.RxBytes, "tx_packets": s.TxPackets, "tx_bytes": s.TxBytes}
	count := func() error { return got.addFragments() }
	if a.Outer {
		return got, c.x.node.Do(count)
	}
	return got, count()
}

// addFragments adds how much the thread's namespace fragments.
func (got counters) addFragments() error {
	snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return err
	}
	ip := proc.ParseSNMP(string(snmp), "Ip")
	got["fragments"] = ip["FragCreates"] + ip["ReasmReqds"]
	return nil
}
