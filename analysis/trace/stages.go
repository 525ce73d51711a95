package trace

import "strings"

// StageOf says in words where on a packet's way the last function of a stack is: "netfilter FORWARD",
// "system call sendto", "veth"; "" for a function at which no part of the way begins. The stack
// begins with the thread's role.
func StageOf(stack []string) string {
	if len(stack) < 2 {
		return ""
	}
	name := plainName(stack[len(stack)-1])
	callers := stack[1 : len(stack)-1]
	if call, ok := strings.CutPrefix(name, "__x64_sys_"); ok {
		return "system call " + call
	}
	if program, ok := strings.CutPrefix(stack[len(stack)-1], bpfPrefix); ok {
		return "BPF program " + program
	}
	switch name {
	case "nf_hook_slow", "nf_hook_slow_list":
		return strings.TrimSpace("netfilter " + hookOf(callers))
	case "tcf_classify", "tcf_classify_ingress", "tc_run", "tcx_run", "sch_handle_ingress", "sch_handle_egress":
		return "tc " + direction(callers)
	}
	return stages()[name]
}

// hookOf is the hook that the callers of nf_hook_slow run, by the nearest that has one; "" if none
// does. See the callers of NF_HOOK and nf_hook in net/ipv4, net/ipv6 and net/bridge.
func hookOf(callers []string) string {
	hooks := hookCallers()
	for i := len(callers) - 1; i >= 0; i-- {
		name := plainName(callers[i])
		hook := hooks[name]
		if name == "__br_forward" {
			hook = "bridge FORWARD"
			if calledBy(callers[:i], "br_dev_xmit") {
				hook = "bridge OUTPUT"
			}
		}
		if hook != "" {
			return hook
		}
	}
	return ""
}

func calledBy(callers []string, name string) bool {
	for _, c := range callers {
		if plainName(c) == name {
			return true
		}
	}
	return false
}

// hookCallers has the functions that run a hook. The bridge's own hooks and those that it runs for
// IP packets (br_netfilter) are told from IP's.
func hookCallers() map[string]string {
	return map[string]string{
		"ip_rcv": "PREROUTING", "ip_list_rcv": "PREROUTING", "ip_sublist_rcv": "PREROUTING", "ipv6_rcv": "PREROUTING", "ipv6_list_rcv": "PREROUTING", "ip6_sublist_rcv": "PREROUTING",
		"ip_local_deliver": "INPUT", "ip6_input": "INPUT", "ip6_mc_input": "INPUT",
		"ip_forward": "FORWARD", "ip6_forward": "FORWARD", "ip_mr_forward": "FORWARD",
		"__ip_local_out": "OUTPUT", "__ip6_local_out": "OUTPUT", "ip6_xmit": "OUTPUT", "raw_sendmsg": "OUTPUT",
		"ip_output": "POSTROUTING", "ip_mc_output": "POSTROUTING", "ip6_output": "POSTROUTING",
		"br_nf_pre_routing": "PREROUTING on the bridge", "br_nf_pre_routing_ipv6": "PREROUTING on the bridge",
		"br_nf_forward": "FORWARD on the bridge", "br_nf_forward_ip": "FORWARD on the bridge", "br_nf_forward_arp": "FORWARD of ARP",
		"br_nf_post_routing": "POSTROUTING on the bridge", "br_nf_local_in": "INPUT on the bridge",
		"br_handle_frame": "bridge PREROUTING", "nf_hook_bridge_pre": "bridge PREROUTING", "br_nf_hook_thresh": "bridge, continued",
		"br_pass_frame_up": "bridge INPUT", "br_forward_finish": "bridge POSTROUTING", "br_handle_local_finish": "bridge INPUT",
		"__netif_receive_skb_core": "INGRESS", "__dev_queue_xmit": "EGRESS", "arp_rcv": "ARP input", "arp_xmit": "ARP output", "arp_send_dst": "ARP output",
	}
}

// direction is "ingress" or "egress", by what called a classifier.
func direction(callers []string) string {
	for i := len(callers) - 1; i >= 0; i-- {
		switch plainName(callers[i]) {
		case "__dev_queue_xmit", "sch_handle_egress":
			return "egress"
		case "__netif_receive_skb_core", "sch_handle_ingress":
			return "ingress"
		}
	}
	return "classifier"
}

// stages are the functions at which a part of the way begins, under any caller.
func stages() map[string]string {
	return map[string]string{
		"ipt_do_table": "iptables rules", "ip6t_do_table": "iptables rules", "ebt_do_table": "ebtables rules", "arpt_do_table": "arptables rules",
		"nft_do_chain": "nftables rules", "ip_set_test": "ipset lookup", "nf_conntrack_in": "conntrack lookup",
		"nf_confirm": "conntrack confirm", "ipv4_confirm": "conntrack confirm", "ipv6_confirm": "conntrack confirm", "nf_nat_inet_fn": "NAT", "nf_nat_ipv4_fn": "NAT",
		"cls_bpf_classify": "classifier of BPF programs", "__cgroup_bpf_run_filter_skb": "BPF of the cgroup", "skb_do_redirect": "redirect", "__bpf_redirect": "redirect",
		"do_xdp_generic": "generic XDP", "bpf_prog_run_generic_xdp": "generic XDP program", "veth_xdp_rcv": "XDP on veth", "veth_xdp_rcv_one": "XDP on veth: frame", "veth_xdp_rcv_skb": "XDP on veth: packet",
		"xdp_do_redirect": "XDP redirect", "xdp_do_flush": "XDP flush", "veth_xdp_xmit": "XDP transmit on veth",
		"__dev_queue_xmit": "transmit queue", "__qdisc_run": "qdisc", "sch_direct_xmit": "qdisc: to the device", "veth_xmit": "veth", "netkit_xmit": "netkit", "loopback_xmit": "loopback",
		"br_dev_xmit": "bridge: from its own host", "br_handle_frame": "bridge", "br_forward": "bridge: forward", "br_pass_frame_up": "bridge: to its own host", "br_flood": "bridge: flood",
		"vxlan_xmit": "VXLAN: encapsulate", "vxlan_rcv": "VXLAN: decapsulate", "ovs_vport_receive": "Open vSwitch",
		"__do_softirq": "softirq", "handle_softirqs": "softirq", "process_backlog": "backlog of the CPU", "veth_poll": "NAPI of veth", "virtnet_poll": "NAPI of the network card", "gro_cell_poll": "NAPI of the tunnel",
		"napi_gro_receive": "GRO", "__netif_receive_skb_core": "receive from the device", "ip_rcv": "IP: receive", "ip_list_rcv": "IP: receive", "ipv6_rcv": "IP: receive",
		"ip_route_input_noref": "routing: in", "ip_route_input_slow": "routing: in, full lookup", "ip_route_output_flow": "routing: out", "ip_route_output_key_hash": "routing: out, full lookup", "fib_table_lookup": "routing table",
		"ip_forward": "IP: forward", "ip6_forward": "IP: forward", "ip_local_deliver": "IP: deliver", "ip6_input": "IP: deliver", "__ip_queue_xmit": "IP: send", "ip_queue_xmit": "IP: send", "ip6_xmit": "IP: send",
		"ip_output": "IP: output", "ip6_output": "IP: output", "neigh_resolve_output": "neighbour",
		"tcp_sendmsg": "TCP: send", "__tcp_transmit_skb": "TCP: segment", "tcp_v4_rcv": "TCP: receive", "tcp_v6_rcv": "TCP: receive", "tcp_recvmsg": "TCP: read", "tcp_v4_do_rcv": "TCP: segment to the socket",
		"tcp_v4_connect": "TCP: connect", "tcp_close": "TCP: close", "inet_csk_accept": "TCP: accept", "tcp_write_timer": "TCP: timer", "tcp_delack_timer": "TCP: delayed acknowledgement",
		"udp_sendmsg": "UDP: send", "udp_rcv": "UDP: receive", "sock_def_readable": "wake-up of the reader", "sock_def_write_space": "wake-up of the writer", "sk_stream_write_space": "wake-up of the writer",
		"try_to_wake_up": "wake-up", "schedule": "scheduler", "__schedule": "context switch", "sk_wait_data": "wait for data", "kfree_skb_reason": "packet is freed", "sk_skb_reason_drop": "packet is dropped",
		"asm_sysvec_apic_timer_interrupt": "timer interrupt", "asm_common_interrupt": "interrupt", "asm_exc_page_fault": "page fault", "asm_sysvec_call_function_single": "interrupt of another CPU",
		"run_timer_softirq": "timers", "rcu_core": "RCU", "rcu_core_si": "RCU", "process_one_work": "work queue",
	}
}
