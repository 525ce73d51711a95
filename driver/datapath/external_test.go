package datapath

import (
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

func refusalOf(t *testing.T, name string, options map[string]string) string {
	t.Helper()
	d := entryOf(t, name)
	all := map[string]string{}
	for _, o := range d.Options {
		all[o.Key] = o.Allowed[0]
	}
	for _, k := range d.Keys {
		all[k.Key] = k.Default
	}
	for k, v := range options {
		all[k] = v
	}
	return d.Refuse(plan.Lab{Provider: plan.ProviderLocal}, plan.Localhost, all)
}

func TestExternalFiltersRefuseWhatTheyCannotExpress(t *testing.T) {
	scripts := map[string]string{keyApply: "a@1", keyRemove: "r@1", keyCounters: "c@1"}
	with := func(m map[string]string, more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	for _, c := range []struct {
		datapath string
		options  map[string]string
		why      string // "" is possible
	}{
		{"bridge+xdp-filter", nil, ""},
		{"bridge+xdp-filter", map[string]string{optPolicy: policyL4}, "by address OR by port"},
		{"bridge+xdp-filter", map[string]string{optPolicy: policyCIDR}, "no prefixes"},
		{"bridge+xdp-filter", map[string]string{optAction: actionDeny}, ""},
		{"bpf+xdp-filter", map[string]string{optDelivery: deliverNetkit}, "no native XDP"},
		{"bridge+bpfilter", map[string]string{optPolicy: policyCIDR}, ""},
		{"bridge+bpfilter", map[string]string{optMatch: matchFirst}, "no order"},
		{"bridge+bpfilter", map[string]string{optMatch: matchFirst, optForm: formLinear}, ""},
		{"bpf+bpfilter", map[string]string{optHook: hookForward}, "past the node's netfilter"},
		{"bridge+custom", nil, "scripts or an object"},
		{"bridge+custom", scripts, ""},
		{"bridge+custom", with(scripts, keyObject, "o@1"), "scripts or an object"},
		{"bridge+custom", with(scripts, keyCounters, ""), "proves nothing"},
		{"bridge+custom", with(scripts, keyRemove, ""), ""},
		{"bridge+custom", with(scripts, keyRemove, "", optIn, inNode), "outlives the setup"},
		{"bridge+custom", with(scripts, keyProgram, "p"), "about an object"},
		{"bridge+custom", map[string]string{keyObject: "o@1"}, "several programs"},
		{"bridge+custom", map[string]string{keyObject: "o@1", keyProgram: "p"}, ""},
		{"veth+custom", with(scripts, optIn, inNode), "no packet meets the node"},
	} {
		got := refusalOf(t, c.datapath, c.options)
		if (got == "") != (c.why == "") || !strings.Contains(got, c.why) {
			t.Errorf("%s %v: %q, want %q", c.datapath, c.options, got, c.why)
		}
	}
}

// TestXDPFilterIsFullAtItsCapacity: the map has room for 10 000, and one of them
// is the update's.
func TestXDPFilterIsFullAtItsCapacity(t *testing.T) {
	for n, full := range map[int]bool{9998: false, 9999: true} { // and the gateway
		s := render(t, cellOf(t, "bridge+xdp-filter", plan.Localhost, plan.EndpointNetns, n, nil))
		if err := Check(s, map[string]string{}); (err != nil) != full {
			t.Errorf("%d policies: %v, want refused %t", n, err, full)
		}
	}
	if s := render(t, cellOf(t, "routed+xdp-filter", plan.Localhost, plan.EndpointNetns, 9999, nil)); s.Unsupported != "" {
		t.Errorf("9999 policies without a gateway: %s", s.Unsupported)
	}
}

// TestBPFilterChains fixes what bpfilter is given, in addition to the golden default.
func TestBPFilterChains(t *testing.T) {
	for _, c := range []struct {
		options map[string]string
		n       int
		want    []string
		frame   uint32
	}{
		{nil, 0, []string{"chain hookbed BF_HOOK_TC_INGRESS{ifindex={index:eth0}} ACCEPT"}, 0},
		{map[string]string{optForm: formLinear, optHook: hookForward}, 1, []string{
			"chain hookbed BF_HOOK_NF_FORWARD{family=inet4,priorities=101-102} DROP",
			"rule ip4.saddr eq 198.18.11.20 counter ACCEPT",
			"rule ip4.saddr eq 198.18.11.10 tcp.dport eq 5001 counter ACCEPT",
			"rule ip4.saddr eq 198.18.11.10 tcp.dport eq 12865 counter ACCEPT",
		}, 1},
		{map[string]string{optFamily: familyIPv6, optHook: hookInput, optPolicy: policyL3}, 1, []string{
			"chain hookbed BF_HOOK_NF_LOCAL_IN{family=inet6,priorities=101-102} DROP",
			"rule icmpv6.type eq 135 counter ACCEPT",
			"rule icmpv6.type eq 136 counter ACCEPT",
			"rule (ip6.saddr) in { 2001:2:0:11::a } counter ACCEPT",
		}, 2},
		{map[string]string{optPolicy: policyCIDR, optHook: hookXDP}, 1, []string{
			"chain hookbed BF_HOOK_XDP{ifindex={index:eth0}} DROP",
			"rule meta.l3_proto eq 0 counter ACCEPT",
			"rule (ip4.snet) in { 198.18.11.8/30 } tcp.dport eq 5001 counter ACCEPT",
			"rule ip4.saddr eq 198.18.11.10 tcp.dport eq 12865 counter ACCEPT",
		}, 1},
	} {
		s := render(t, cellOf(t, "bridge+bpfilter", plan.Localhost, plan.EndpointNetns, c.n, c.options))
		if got := string(s.Files["bpfilter.chain"].Data); got != strings.Join(c.want, "\n")+"\n" {
			t.Errorf("%v: chain is\n%swant\n%s", c.options, got, strings.Join(c.want, "\n"))
		}
		ranges := s.Hook.From.BPF.Ranges
		if ranges[0].First != c.frame || ranges[0].First+ranges[0].Count != ranges[1].First || int(ranges[1].First) != len(c.want)-1 {
			t.Errorf("%v: counters are %+v, want %d of the frame and %d rules", c.options, ranges, c.frame, len(c.want)-1)
		}
	}
}

func TestScriptsMarkTheirNamespace(t *testing.T) {
	inside := render(t, cellOf(t, "bridge+custom", plan.Localhost, plan.EndpointDocker, 1, nil))
	outside := render(t, cellOf(t, "bridge+custom", plan.Localhost, plan.EndpointDocker, 1, map[string]string{optIn: inNode}))
	if !inside.Marks(Server) || inside.Marks(Client) || outside.Marks(Server) {
		t.Error("a container that a script was in must not serve again, and no other")
	}
	if none := render(t, cellOf(t, "bridge+custom", plan.Localhost, plan.EndpointDocker, 0, nil)); none.Hook != nil || len(none.Files) > 0 {
		t.Error("there is a filter at N = 0")
	}
	var tool bundle.Tool
	for _, st := range outside.Apply {
		if do, ok := st.Do.(bundle.Tool); ok {
			tool = do
		}
	}
	if got := tool.Do.Env["HOOKBED_LINK"]; got != "{name:peer:server/eth0}" || tool.Undo == nil {
		t.Errorf("on the node the script is told of link %q, and undone by %v", got, tool.Undo)
	}
}
