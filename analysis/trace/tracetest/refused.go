package tracetest

import "hookbed/analysis/trace"

// Refused is the trace of attempts that an arm refuses at n policies, and what the kernel records of
// their packets. Equal arguments give equal traces, which are exact.
func Refused(cell, arm string, n int) (trace.Trace, []trace.Freed) {
	t := New(cell, arm, RR, n)
	usual, freed := packets{arm, n}.refused()
	cost := sum(usual)
	timed(usual, 0)
	t.Unit, t.Client = trace.UnitAttempt, trace.Span{}
	t.Path = trace.Path{Instructions: cost, Units: units, Same: units, Paths: 1, Least: cost, Most: cost, Calls: usual}
	t.Measured = newTree()
	merge(&t.Measured, 0, usual, units)
	w := &t.Window
	w.Measured = t.Measured.Instructions()
	w.Instructions = w.Measured + t.Around.Instructions()
	w.ClockNS = w.IdleNS + w.NSPerInstruction*w.Instructions
	return t, []trace.Freed{freed}
}

// refused is an attempt to connect whose packet ends where the arm enforces.
func (p packets) refused() ([]*trace.Call, trace.Freed) {
	free := call("sk_skb_reason_drop", 40, call("skb_release_data", 80))
	end, by := p.refusedInput(free)
	reason := trace.Freed{Packets: 8, Function: by, Reason: "NETFILTER_DROP"}
	program := call("tcf_classify", 70, call("bpf:hb_tc_from_endpoint", 96))
	switch p.arm {
	case TCHash, CiliumLike:
		end, reason.Function, reason.Reason = call("__netif_receive_skb_core.constprop.0", 220, program, free), "__netif_receive_skb_core", "TC_INGRESS"
	case XDP:
		end, reason.Function, reason.Reason = call("veth_xdp_rcv_skb", 160, call("bpf:hb_xdp", 120), free), "veth_xdp_rcv_skb", "NOT_SPECIFIED"
	}
	return []*trace.Call{call(trace.RoleClient, 0, syscall("connect", call("tcp_v4_connect", 300, call("veth_xmit", 140), softirq(end))))}, reason
}

// refusedInput is the end of a packet in IP's INPUT hook.
func (p packets) refusedInput(free *trace.Call) (end *trace.Call, by string) {
	rules := call("ipt_do_table", 160+46*p.n)
	if p.arm == NftSet {
		rules = call("nft_do_chain", 260)
	}
	return call("ip_local_deliver", 28, call("nf_hook_slow", 45, rules, free)), "nf_hook_slow"
}

// timed gives calls their place in time: what a function executes itself comes before what it calls.
func timed(calls []*trace.Call, at uint64) uint64 {
	for _, c := range calls {
		c.Begin = at
		at = timed(c.Calls, at+c.Self)
		c.End = at
	}
	return at
}
