package step

import (
	"fmt"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

func TestRules(t *testing.T) {
	for _, tool := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(tool, func(t *testing.T) { testRules(t, tool) })
	}
}

func testRules(t *testing.T, tool string) {
	r := newRig(t)
	r.pair()
	r.file("rules", guesttest.RuleFile)
	r.file("undo", guesttest.RuleUndo)
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
