package vm

import (
	"net/netip"
	"slices"
	"testing"
)

func TestOverlap(t *testing.T) {
	used := []usedRange{
		{netip.MustParsePrefix("0.0.0.0/0"), "a route through eth0"},
		{netip.MustParsePrefix("10.0.0.0/8"), "the address of eth0"},
		{netip.MustParsePrefix("198.18.0.0/25"), "the address of br0"},
		{netip.MustParsePrefix("198.19.7.0/24"), "a route through br1"},
		{netip.MustParsePrefix("2001:2::/48"), "the address of br2"},
	}
	for _, c := range []struct {
		prefix string
		by     string // "" is free
	}{
		{"198.18.0.0/24", "the address of br0"},  // contains it
		{"198.18.0.64/26", "the address of br0"}, // is contained
		{"198.19.0.0/16", "a route through br1"}, // contains it
		{"198.18.1.0/24", ""},                    // next to it
		{"198.18.0.128/25", ""},                  // its other half
		{"10.255.255.255/32", "the address of eth0"},
	} {
		u, found := overlap(netip.MustParsePrefix(c.prefix), used)
		if found != (c.by != "") || u.By != c.by {
			t.Errorf("%s overlaps %q (%v), want %q", c.prefix, u.By, found, c.by)
		}
	}
}

func TestUsedRangesKnowsLoopback(t *testing.T) {
	used, err := usedRanges()
	if err != nil {
		t.Fatal(err)
	}
	want := usedRange{netip.MustParsePrefix("127.0.0.0/8"), "the address of lo"}
	if !slices.Contains(used, want) {
		t.Errorf("%v is not among %v", want, used)
	}
}
