package trace

import (
	"slices"
	"strings"
	"testing"
)

// A program's hook is named, also where the compiler has made the hook's function a part of its caller.
func TestDeciding(t *testing.T) {
	for stack, want := range map[string][]string{
		"server;veth_poll;veth_xdp_rcv_skb;bpf:xdp_policy":                                  {"XDP on veth: packet", "BPF program xdp_policy"},
		"server;veth_poll;bpf:xdp_policy":                                                   {"XDP on veth", "BPF program xdp_policy"},
		"client;__netif_receive_skb_core.constprop.0;tcx_run;bpf:p":                         {"tc ingress", "BPF program p"},
		"client;__netif_receive_skb_core.constprop.0;tcf_classify_ingress;bpf:p":            {"tc ingress", "BPF program p"},
		"client;__netif_receive_skb_core.constprop.0;__tcf_classify;cls_bpf_classify;bpf:p": {"tc ingress", "BPF program p"},
		"client;__dev_queue_xmit;__tcf_classify;cls_bpf_classify;bpf:p":                     {"tc egress", "BPF program p"},
		"client;__netif_receive_skb_core;ip_rcv;tcp_v4_rcv;sk_filter_trim_cap;bpf:p":        {"BPF program p"},
		"client;unheard_of;bpf:p":                                                           {"BPF program p"},
		"client;ip_local_deliver;nf_hook_slow;ipt_do_table;ip_set_test":                     {"netfilter INPUT", "iptables rules", "ipset lookup"},
	} {
		if got := deciding(freed(strings.Split(stack, ";"))); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", stack, got, want)
		}
	}
}

// freed are the calls of a stack, and a packet's end after them.
func freed(stack []string) (all []callAt, end callAt) {
	for i := range stack {
		all = append(all, callAt{&Call{Name: stack[i], Begin: uint64(i)}, stack[:i+1]})
	}
	end = callAt{&Call{Name: "kfree_skb", Begin: uint64(len(stack))}, append(slices.Clone(stack), "kfree_skb")}
	return append(all, end), end
}
