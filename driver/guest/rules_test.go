package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/bundle"
)

const (
	ruleFile = "*filter\n:INPUT DROP [0:0]\n-A INPUT -s 198.18.1.2/32 -p tcp -m tcp --dport 5001 -j ACCEPT\n-A INPUT -s 198.19.0.7/32 -j DROP\nCOMMIT\n"
	ruleUndo = "*filter\n:INPUT ACCEPT [0:0]\n-F INPUT\nCOMMIT\n"
)

func TestRules(t *testing.T) {
	for _, tool := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(tool, func(t *testing.T) { testRules(t, tool) })
	}
}

func testRules(t *testing.T, tool string) {
	r := newRig(t)
	r.pair()
	r.file("rules", ruleFile)
	r.file("undo", ruleUndo)
	empty := r.output("server", tool, "-S")
	r.x.undo.mark()
	res := r.must("server", bundle.Rules{Tool: tool, File: "rules", Undo: "undo"})
	if res.Values["load_seconds"] <= 0 {
		t.Errorf("values %v without load_seconds", res.Values)
	}
	r.file("nothing", "*filter\nCOMMIT\n")
	if got := r.must("server", bundle.Rules{Tool: tool, File: "nothing", Metric: bundle.MetricUpdate}).Values; len(got) != 1 || got[bundle.MetricUpdate] <= 0 {
		t.Errorf("values of an update are %v", got)
	}
	counter := bundle.Counter{Rules: &bundle.RuleCounter{Tool: tool, Table: "filter", Chain: "INPUT"}}
	before := r.must("server", bundle.Listen{Handle: "probe", Port: 5001}, bundle.Read{Name: "before", From: counter}).Values
	if before["rules"] != 2 || before["rules_hook"] != 2 || before["packets"] != 0 {
		t.Errorf("counters before are %v", before)
	}
	res = r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.2, Tries: []bundle.Probe{
		{What: "allowed source", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Allow},
		{What: "forbidden source", From: "198.19.0.7", To: "198.18.1.3", Port: 5001, Want: bundle.Deny},
		{What: "forbidden port", From: "198.18.1.2", To: "198.18.1.3", Port: 5002, Want: bundle.Deny},
	}})
	if res.Values["allowed"] != 1 || res.Values["denied"] != 2 {
		t.Errorf("probes count %v", res.Values)
	}
	r.awaitCounter("server", counter, func(got map[string]float64) bool {
		return got["accepted"] >= 2 && got["dropped"] >= 1 && got["packets"] >= 4
	})
	after := r.must("server", bundle.Read{Name: "after", From: counter}).Values
	again := r.retransmitted("client") // a busy machine's probes wait long enough for that
	if after["accepted"] < 2 || after["dropped"] < 1 || after["dropped"] > 1+again || after["packets"] < 4 || after["bytes"] == 0 {
		t.Errorf("counters after are %v, with %g segments sent again", after, again)
	}
	r.must("server", bundle.Expect{What: "two rules", Read: "after", Key: "rules", Op: bundle.Equal, Value: 2},
		bundle.Expect{What: "drops counted", Read: "after", Since: "before", Key: "dropped", Op: bundle.AtLeast, Value: 1})
	r.fails("server", bundle.FaultSubject, bundle.Expect{What: "drops counted", Read: "after", Since: "before", Key: "dropped", Op: bundle.AtLeast, Value: uint64(after["dropped"]) + 2},
		fmt.Sprintf("drops counted: after.dropped = %g (since before: +%[1]g), want >= %[2]g", after["dropped"], after["dropped"]+2))
	r.fails("server", bundle.FaultRig, bundle.Expect{What: "x", Read: "never", Key: "rules", Op: bundle.Equal}, `no snapshot "never"`)
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if got := r.output("server", tool, "-S"); got != empty {
		t.Errorf("undo left\n%s\nit was\n%s", got, empty)
	}
	addrs := r.output("client", "ip", "-4", "addr")
	if strings.Contains(addrs, "198.19.0.7") {
		t.Errorf("the probe's source is still there:\n%s", addrs)
	}
}

func TestRulesErrors(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	r.file("bad", "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 198.18.1.2 -j NOWHERE\nCOMMIT\n")
	for _, tool := range []string{"iptables-legacy", "iptables-nft"} {
		r.fails("server", bundle.FaultRig, bundle.Rules{Tool: tool, File: "bad"}, "line", "NOWHERE")
	}
	r.fails("server", bundle.FaultRig, bundle.Rules{Tool: "pf", File: "bad"}, `unknown rule-set tool "pf"`)
	r.fails("server", bundle.FaultRig, bundle.Read{Name: "x", From: bundle.Counter{Rules: &bundle.RuleCounter{Tool: "nft", Table: "ip none", Chain: "c"}}}, "nft", "No such file")
	r.fails("server", bundle.FaultRig, bundle.Read{Name: "x", From: bundle.Counter{Rules: &bundle.RuleCounter{Tool: "pf"}}}, `unknown rule-set tool "pf"`)
	r.fails("server", bundle.FaultRig, bundle.Read{Name: "x"}, "exactly one of")
}

func TestNftRules(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	r.file("rules", "table ip t {\n  chain c {\n    type filter hook input priority 0;\n    ip saddr 198.19.0.7 drop\n  }\n}\n")
	r.file("undo", "delete table ip t\n")
	r.x.undo.mark()
	r.must("server", bundle.Rules{Tool: "nft", File: "rules", Undo: "undo"})
	if got := r.output("server", "nft", "list", "ruleset"); !strings.Contains(got, "ip saddr 198.19.0.7 drop") {
		t.Errorf("rule set is %s", got)
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if got := r.output("server", "nft", "list", "ruleset"); strings.TrimSpace(got) != "" {
		t.Errorf("undo left %s", got)
	}
	r.file("bad", "table ip t {\n  chain c {\n    ip saddr nonsense drop\n  }\n}\n")
	r.fails("server", bundle.FaultRig, bundle.Rules{Tool: "nft", File: "bad"}, "line 3 is", "nonsense")
}

func TestMissingToolIsUnsupported(t *testing.T) {
	if _, err := runTool(t.Context(), []string{"no-such-tool-restore"}, nil); faultOf(err) != bundle.FaultUnsupported {
		t.Errorf("a missing tool gives %v", err)
	}
}

func TestParseRules(t *testing.T) {
	const saved = `# Generated by iptables-save
*filter
:INPUT DROP [7:700]
:FORWARD ACCEPT [1:100]
:MINE - [9:900]
[10:1000] -A INPUT -s 198.18.1.2/32 -p tcp -m tcp --dport 5001 -j ACCEPT
[20:2000] -A INPUT -s 198.18.1.3/32 -j DROP
[30:3000] -A INPUT -s 198.18.1.4/32
[40:4000] -A INPUT -j MINE
[50:5000] -A MINE -s 198.18.1.5/32 -j ACCEPT
[60:6000] -A MINE -j RETURN
COMMIT
`
	for chain, want := range map[string]counters{
		"INPUT":   {"rules": 4, "rules_hook": 6, "packets": 77, "bytes": 7700, "accepted": 10, "dropped": 20, "passed": 0},
		"MINE":    {"rules": 2, "rules_hook": 6, "packets": 110, "bytes": 11000, "accepted": 50, "dropped": 0, "passed": 60},
		"FORWARD": {"rules": 0, "rules_hook": 6, "packets": 1, "bytes": 100, "accepted": 0, "dropped": 0, "passed": 1},
	} {
		got, err := parseRules(saved, chain)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %d, want %d", chain, k, got[k], v)
			}
		}
	}
	if _, err := parseRules(saved, "OTHER"); err == nil {
		t.Error("a chain that is not there is no error")
	}
	if _, err := parseRules(":INPUT DROP [99999999999999999999:1]\n", "INPUT"); err == nil {
		t.Error("a counter that does not fit is no error")
	}
}

// TestCountNft reads what nft printed of rule sets that had seen packets.
func TestCountNft(t *testing.T) {
	for _, tc := range []struct {
		file, chain string
		want        counters
	}{
		{"nft-interval.json", "forward", counters{"rules": 4, "rules_hook": 4, "packets": 55, "bytes": 5180, "accepted": 43, "dropped": 5, "passed": 7, "elements.policies": 3}},
		{"nft-vmap.json", "input", counters{"rules": 3, "rules_hook": 5, "packets": 5, "bytes": 280, "accepted": 1, "dropped": 3, "passed": 1, "elements.policies": 5}},
		{"nft-vmap.json", "admitted", counters{"rules": 2, "rules_hook": 5, "packets": 5, "bytes": 280, "accepted": 1, "dropped": 3, "passed": 1, "elements.policies": 5}},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", tc.file))
		if err != nil {
			t.Fatal(err)
		}
		objects, err := parseNftObjects(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := countNft(objects, tc.chain); err != nil || !maps.Equal(got, tc.want) {
			t.Errorf("%s, %s: %v (%v), want %v", tc.file, tc.chain, got, err, tc.want)
		}
		if _, err := countNft(objects, "output"); err == nil {
			t.Errorf("%s: a chain that is not there is no error", tc.file)
		}
	}
	if _, err := parseNftObjects([]byte("table ip t {")); err == nil {
		t.Error("text that is no JSON is no error")
	}
}

func TestParseIPSet(t *testing.T) {
	const header = "Name: hookbed\nType: hash:ip,port\nRevision: 7\nHeader: family inet hashsize 16384 maxelem 65536 bucketsize 12 initval 0xc8935afd\n" +
		"Size in memory: 378816\nReferences: 1\nNumber of entries: 10000\n"
	for key, want := range map[string]uint64{"Number of entries": 10000, "Size in memory": 378816} {
		if got, err := parseIPSet(header, key); err != nil || got != want {
			t.Errorf("%s is %d (%v), want %d", key, got, err, want)
		}
	}
	for _, key := range []string{"Comment", "Type"} {
		if n, err := parseIPSet(header, key); err == nil {
			t.Errorf("%s is %d", key, n)
		}
	}
}

func TestOffendingLine(t *testing.T) {
	input := []byte("one\ntwo\nthree\n")
	for msg, want := range map[string]string{
		"iptables-restore: line 2 failed":       `line 2 is "two"`,
		"Error occurred at line: 3":             `line 3 is "three"`,
		"/dev/stdin:1:5-9: Error: syntax error": `line 1 is "one"`,
		"ipset v7.17: Error in line 2: Element cannot be added to the set: it's already added": `line 2 is "two"`,
		"line 77 failed":                         "",
		"could not open socket to kernel, sorry": "",
	} {
		if got := offendingLine(msg, input); got != want {
			t.Errorf("offendingLine(%q) = %q, want %q", msg, got, want)
		}
	}
}
