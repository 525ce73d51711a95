package ruleset

import (
	"os"
	"testing"

	"hookbed/driver/guest/cgroup"
)

// FuzzRules: no text that a tool prints makes the parser of rule sets panic, and what it counts is
// never fewer packets than it has rules for them.
func FuzzRules(f *testing.F) {
	f.Add("*filter\n:INPUT ACCEPT [3:180]\n[1:60] -A INPUT -s 198.18.0.1/32 -j ACCEPT\n[0:0] -A INPUT -j DROP\nCOMMIT\n", "INPUT")
	f.Add(":x - [0:0]\n[18446744073709551615:1] -A x -g y\n[1:1] -A x\n", "x")
	f.Add("[99999999999999999999:1] -A x -j DROP\n", "x")
	f.Fuzz(func(t *testing.T, text, chain string) {
		got, err := parseRules(text, chain)
		if err == nil && got["rules"] > got["rules_hook"] {
			t.Errorf("%d rules in %q, %d in the table", got["rules"], chain, got["rules_hook"])
		}
		_, _ = parseIPSet(text, chain)
		_ = parseStat(text)
		_ = unreclaimable(text)
		for _, m := range cgroup.Mounts(text) {
			if m.Version != 1 && m.Version != 2 {
				t.Errorf("%+v", m)
			}
		}
	})
}

// FuzzNft: the same of the JSON that nft prints.
func FuzzNft(f *testing.F) {
	for _, name := range []string{"nft-interval.json", "nft-vmap.json"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "input")
	}
	f.Add([]byte(`{"nftables": [{"rule": null}, {"rule": {"chain": "c", "expr": [{}, null, {"counter": null}, {"vmap": 1}]}}, {"map": {"elem": [null]}}]}`), "c")
	f.Fuzz(func(t *testing.T, data []byte, chain string) {
		objects, err := parseNftObjects(data)
		if err != nil {
			return
		}
		if got, err := countNft(objects, chain); err == nil && got["rules"] > got["rules_hook"] {
			t.Errorf("%d rules in %q, %d in the table", got["rules"], chain, got["rules_hook"])
		}
	})
}
