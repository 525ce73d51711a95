package reduce

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/trace"
)

// TestScriptsOfDrops: refused packets end where a script frees them, after as many instructions as the
// script executes up to there.
func TestScriptsOfDrops(t *testing.T) {
	recorded := func(function, reason string) []trace.Freed {
		return []trace.Freed{{Packets: 8, Function: function, Reason: reason}}
	}
	for name, want := range map[string]struct {
		recorded                        []trace.Freed
		toDrop, wire                    uint64
		stages, function, freed, reason string
		same                            int
	}{
		// System call 12+8, connect 5+20; from the veth: 7, 4, softirq 6+4+2, deliver 5, hook 9+40+3, free 11+6+2.
		"netfilter": {recorded("nf_hook_slow", "NETFILTER_DROP"), 45 + 99, 99, "netfilter INPUT, iptables rules", "nf_hook_slow", "sk_skb_reason_drop", "NETFILTER_DROP", 2},
		// From the veth: 7, 4, receive 6, classifier 4+5+30+2+1, 3, free 12.
		"tc": {recorded("__netif_receive_skb_core", ""), 45 + 74, 74, "tc ingress, BPF program tc_from_endpoint", "__netif_receive_skb_core", "sk_skb_reason_drop", "", 3},
		// From the veth: 7, 4, XDP 6+22+3, free 12.
		"page": {nil, 45 + 54, 54, "XDP on veth: packet, BPF program xdp_policy", "veth_xdp_rcv_skb", "page_frag_free", "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			tr := attempts(t, name)
			d, err := trace.NewDrop(tr, want.recorded)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(d.ToDrop, d.FromWire, d.Where(), " ", d.Function, " ", d.FreedBy, " ", d.Reason, d.Same, d.Compared, d.Ended, d.Recorded)
			recordedPackets := 0
			if want.recorded != nil {
				recordedPackets = 8
			}
			if expect := fmt.Sprint(want.toDrop, want.wire, want.stages, " ", want.function, " ", want.freed, " ", want.reason, want.same, 3, 3, recordedPackets); got != expect {
				t.Errorf("got  %s\nwant %s", got, expect)
			}
			var b strings.Builder
			tr.Drop = d
			if err := trace.WriteDrop(&b, tr); err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{"where a refused packet ends", d.Function, d.FreedBy, d.Where(), want.reason} {
				if !strings.Contains(strings.ReplaceAll(b.String(), `\_`, "_"), part) {
					t.Errorf("%q is not in\n%s", part, b.String())
				}
			}
		})
	}
}

// attempts is the trace of a script of refused attempts.
func attempts(t *testing.T, name string) *trace.Trace {
	t.Helper()
	cfg := testConfig()
	cfg.Unit, cfg.Cut.Call = trace.UnitAttempt, "__x64_sys_connect"
	tr := result(t, cfg, readFile(t, "testdata/drops/"+name+".script"))
	tr.Cell = name
	return tr
}

// A packet that the kernel says ends elsewhere is not said to end here.
func TestDropsOfAnotherFunction(t *testing.T) {
	_, err := trace.NewDrop(attempts(t, "netfilter"), []trace.Freed{{Packets: 8, Function: "tcp_v4_rcv", Reason: "NO_SOCKET"}})
	if err == nil || !strings.Contains(err.Error(), "tcp_v4_rcv gave up 8 packets") {
		t.Errorf("got %v", err)
	}
	if _, err := trace.NewDrop(result(t, testConfig(), sends("aaaaaaaaaa")), nil); err == nil || !strings.Contains(err.Error(), "no packet is freed") {
		t.Errorf("got %v", err)
	}
}

// TestCallsHaveTheirTime: a call of a path ends where what follows it begins, and lasts as long as what
// it executes.
func TestCallsHaveTheirTime(t *testing.T) {
	p := attempts(t, "netfilter").Path
	var visit func(calls []*trace.Call, from, to uint64)
	visit = func(calls []*trace.Call, from, to uint64) {
		for _, c := range calls {
			if c.Begin < from || c.End > to || c.End-c.Begin != c.Total {
				t.Errorf("%s lasts from %d to %d within %d to %d, and executes %d", c.Name, c.Begin, c.End, from, to, c.Total)
			}
			visit(c.Calls, c.Begin, c.End)
			from = c.End
		}
	}
	visit(p.Calls, 0, p.Instructions)
	if i := slices.IndexFunc(p.Calls, func(c *trace.Call) bool { return c.Name == "client" }); i < 0 || p.Calls[i].End != p.Instructions {
		t.Errorf("the client's part does not end with the unit: %+v", p.Calls)
	}
}
