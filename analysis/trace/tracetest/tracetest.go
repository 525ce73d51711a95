// Package tracetest makes traces of invented numbers with the functions of real ones, for tests of
// what reads traces.
package tracetest

import (
	"fmt"

	"hookbed/analysis/trace"
)

// Arms that New has.
const (
	Docker     = "docker"      // a bridge, no policies
	Iptables   = "iptables"    // a list behind the bridge
	NftSet     = "nft-set"     // a set of nftables behind the bridge
	TCHash     = "tc-hash"     // a hash in tc behind the bridge
	CiliumLike = "cilium-like" // a hash in tc, and redirects instead of the bridge
	XDP        = "xdp"         // a hash in XDP on the veth, on the bridge
)

// Workloads that New has.
const (
	RR     = "TCP_RR"     // per transaction
	Stream = "TCP_STREAM" // per MiB: 16 sends
)

// units is how many whole units a trace has; one in extra takes another path.
const (
	units = 200
	extra = 25
)

// New is the trace of one arm at n policies on one host. Equal arguments give equal traces, which
// are exact.
func New(cell, arm, workload string, n int) trace.Trace {
	t := trace.Trace{Cell: cell, Seed: 1, Unit: trace.UnitTransaction, Units: units,
		Factors: map[string]string{"scenario": "localhost", "workload": workload, "arm": arm, "policies": fmt.Sprint(n), "clock": "virtual", "kernel": "6.12"}}
	if workload == Stream {
		t.Unit = trace.UnitMiB
	}
	p := packets{arm, n}
	usual, timed := p.unit(workload, false), p.unit(workload, true)
	cost, dear := sum(usual), sum(timed)
	t.Path = trace.Path{Instructions: cost, Units: units, Same: units - units/extra, Paths: 2, Least: cost, Most: dear, Calls: usual,
		Others: []trace.Variation{{Name: "asm_sysvec_apic_timer_interrupt", Units: units / extra, More: 1, Cost: float64(dear - cost)},
			{Name: "hrtimer_interrupt", Units: units / extra, More: 1, Cost: float64(dear - cost - 25)}}}
	t.Measured, t.Around = newTree(), newTree()
	merge(&t.Measured, 0, usual, units-units/extra)
	merge(&t.Measured, 0, timed, units/extra)
	merge(&t.Around, 0, around(), 1)
	w := trace.Window{NSPerInstruction: 8, Clocks: 4 * units, Blocks: 90 * units, Faults: 3, Misrooted: 12, Unnamed: 40, IdleNS: 12_345}
	w.Measured = t.Measured.Instructions()
	w.Instructions = w.Measured + t.Around.Instructions()
	w.ClockNS = w.IdleNS + w.NSPerInstruction*w.Instructions
	t.Window = w
	c := trace.Span{Instructions: w.Measured + 2_600, Units: units}
	c.ClockNS = 8 * c.Instructions
	t.Client = c
	return t
}

func newTree() trace.Tree { return trace.Tree{Nodes: []trace.Node{{Parent: -1}}} }

// merge adds calls, times over, below a node.
func merge(t *trace.Tree, parent int, calls []*trace.Call, times uint64) {
	for _, c := range calls {
		at := 0
		for i := parent + 1; i < len(t.Nodes) && at == 0; i++ {
			if t.Nodes[i].Parent == parent && t.Nodes[i].Name == c.Name {
				at = i
			}
		}
		if at == 0 {
			at = len(t.Nodes)
			t.Nodes = append(t.Nodes, trace.Node{Parent: parent, Name: c.Name})
		}
		t.Nodes[at].Self += times * c.Self
		if parent > 0 && !c.Resumed {
			t.Nodes[at].Calls += times
		}
		merge(t, at, c.Calls, times)
	}
}

func sum(calls []*trace.Call) (n uint64) {
	for _, c := range calls {
		n += c.Total
	}
	return n
}

// call is a function with what it calls.
func call(name string, self int, inner ...*trace.Call) *trace.Call {
	var kept []*trace.Call
	for _, c := range inner {
		if c != nil {
			kept = append(kept, c)
		}
	}
	return &trace.Call{Name: name, Self: uint64(self), Total: uint64(self) + sum(kept), Calls: kept}
}

// chain is a call of a call of a call; the last calls inner.
func chain(names []string, self int, inner ...*trace.Call) *trace.Call {
	last := len(names) - 1
	c := call(names[last], self, inner...)
	for i := last - 1; i >= 0; i-- {
		c = call(names[i], 20+3*i, c)
	}
	return c
}

// around is what programs do before and after the units.
func around() []*trace.Call {
	return []*trace.Call{
		call(trace.RoleClient, 0, call("netperf:main", 52_000, call("libc.so.6:getaddrinfo", 9_000)), call("entry_SYSCALL_64", 60, call("do_syscall_64", 80, call("__x64_sys_connect", 30, call("tcp_v4_connect", 2_600))))),
		call(trace.RoleHelper, 0, call("hookbed-guest:main", 31_000), call("asm_exc_page_fault", 40, call("exc_page_fault", 90, call("handle_mm_fault", 700)))),
	}
}

// packets makes calls for packets of an arm.
type packets struct {
	arm string
	n   int
}

// unit is a transaction, or 1 MiB; timed has a tick of the clock in it.
func (p packets) unit(workload string, timed bool) []*trace.Call {
	sends := 1
	if workload == Stream {
		sends = 16
	}
	bytes := map[string]int{RR: 1, Stream: 65_536}[workload]
	client := []*trace.Call{call("netperf:send_tcp_rr", 210, call("libc.so.6:send", 18))}
	for range sends {
		client = append(client, p.send(bytes))
	}
	if timed {
		client = append(client, tick())
	}
	client = append(client, syscall("recvfrom", p.receive()))
	server := []*trace.Call{p.wake(bytes), call("netserver:recv_tcp_rr", 260), p.send(1)}
	return []*trace.Call{call(trace.RoleClient, 0, client...), call(trace.RoleServer, 0, server...),
		call(trace.RoleClient, 0, p.wake(1))}
}

func syscall(name string, inner ...*trace.Call) *trace.Call {
	return call("entry_SYSCALL_64", 62, call("do_syscall_64", 74, call("__x64_sys_"+name, 22, call("__sys_"+name, 95, inner...)), call("syscall_exit_to_user_mode", 41)))
}

func tick() *trace.Call {
	return call("asm_sysvec_apic_timer_interrupt", 25, call("sysvec_apic_timer_interrupt", 35, call("__sysvec_apic_timer_interrupt", 15,
		call("hrtimer_interrupt", 240, call("__hrtimer_run_queues", 150, call("tick_nohz_handler", 60, call("update_process_times", 130, call("sched_tick", 310, call("task_tick_rt", 80))))))),
		call("irq_exit_rcu", 35, call("handle_softirqs", 90, call("run_timer_softirq", 120), call("rcu_core_si", 15, call("rcu_core", 160))))))
}

// wake is what a program does that waited for data: its system call goes on.
func (p packets) wake(bytes int) *trace.Call {
	waited := resumed("sk_wait_data", 30, resumed("wait_woken", 25, resumed("schedule_timeout", 20, resumed("schedule", 18, resumed("__schedule", 60,
		call("finish_task_switch.isra.0", 96, call("_raw_spin_unlock_irq", 12)))))))
	read := p.read(bytes)
	read.Resumed = true
	read.Calls, read.Total = append([]*trace.Call{waited}, read.Calls...), read.Total+waited.Total
	return resumed("entry_SYSCALL_64", 40, resumed("do_syscall_64", 30, resumed("__x64_sys_recvfrom", 6, resumed("__sys_recvfrom", 30, resumed("sock_recvmsg", 8, resumed("inet_recvmsg", 6, resumed("tcp_recvmsg", 10, read))))),
		call("syscall_exit_to_user_mode", 41)))
}

// resumed is a call that had begun before.
func resumed(name string, self int, inner ...*trace.Call) *trace.Call {
	c := call(name, self, inner...)
	c.Resumed = true
	return c
}

// receive waits for data.
func (p packets) receive() *trace.Call {
	return chain([]string{"sock_recvmsg", "inet_recvmsg", "tcp_recvmsg", "tcp_recvmsg_locked", "sk_wait_data", "wait_woken", "schedule_timeout", "schedule"}, 70,
		call("__schedule", 420, call("dequeue_task_rt", 190, call("update_curr_rt", 120)), call("pick_next_task_rt", 75), call("switch_mm_irqs_off", 160), call("__switch_to_asm", 28)))
}

// read copies data out of a socket.
func (p packets) read(bytes int) *trace.Call {
	return call("tcp_recvmsg_locked", 330,
		call("skb_copy_datagram_iter", 40, call("__skb_datagram_iter", 110, call("simple_copy_to_iter", 30, call("_copy_to_iter", 60, call("rep_movs_alternative", 12+bytes/8))))),
		call("__kfree_skb", 25, call("skb_release_data", 120, call("kmem_cache_free", 85)), call("kfree_skbmem", 12, call("kmem_cache_free", 85))), call("tcp_rcv_space_adjust", 60))
}

// send writes into a socket: the packet is at its receiver when it returns.
func (p packets) send(bytes int) *trace.Call {
	out := call("__ip_queue_xmit", 150, call("skb_rtable", 8), call("__sk_dst_check", 40), call("ip_local_out", 14, call("__ip_local_out", 60, p.hook("OUTPUT"))),
		call("ip_output", 45, p.hook("POSTROUTING"), call("ip_finish_output2", 130, p.transmit())))
	return syscall("sendto", chain([]string{"sock_sendmsg", "inet_sendmsg", "tcp_sendmsg"}, 40, call("lock_sock_nested", 36, call("_raw_spin_lock_bh", 20)),
		call("tcp_sendmsg_locked", 520, call("tcp_stream_alloc_skb", 60, call("__alloc_skb", 120, call("kmem_cache_alloc_node_noprof", 105), call("kmalloc_reserve", 40, call("kmem_cache_alloc_node_noprof", 105)))),
			call("_copy_from_iter", 70, call("rep_movs_alternative", 12+bytes/8)),
			chain([]string{"tcp_push", "__tcp_push_pending_frames", "tcp_write_xmit"}, 310, call("tcp_schedule_loss_probe", 60, call("sk_reset_timer", 20, call("mod_timer", 140))),
				call("__tcp_transmit_skb", 480, call("skb_clone", 90, call("kmem_cache_alloc_noprof", 95)), call("tcp_options_write", 70), call("tcp_v4_send_check", 30), out))),
		call("release_sock", 40)))
}

// hook is one of IP's hooks: connection tracking for arms that have it, and the list.
func (p packets) hook(name string) *trace.Call {
	if p.arm == CiliumLike || p.arm == XDP && name != "OUTPUT" {
		return nil
	}
	inner := []*trace.Call{}
	switch name {
	case "PREROUTING", "OUTPUT":
		inner = append(inner, call("ipv4_conntrack_in", 8, call("nf_conntrack_in", 190, call("resolve_normal_ct", 110, call("__nf_conntrack_find_get", 160), call("hash_conntrack_raw", 95)), call("nf_conntrack_tcp_packet", 520))))
	case "INPUT":
		if p.arm == Iptables {
			inner = append(inner, call("ipt_do_table", 160+46*p.n, call("tcp_mt", 60), call("conntrack_mt_v3", 70)))
		}
		if p.arm == NftSet {
			inner = append(inner, call("nft_do_chain_ipv4", 60, call("nft_do_chain", 260, call("nft_meta_get_eval", 20), call("nft_lookup_eval", 45, call("nft_hash_lookup_fast", 80)), call("nft_ct_get_fast_eval", 30))))
		}
		inner = append(inner, call("nf_confirm", 60))
	default:
		inner = append(inner, call("nf_nat_inet_fn", 90))
	}
	return call("nf_hook_slow", 35+12*len(inner), inner...)
}

// transmit is from the sender's veth to the receiver's socket.
func (p packets) transmit() *trace.Call {
	deliver := p.deliver()
	var middle *trace.Call
	switch p.arm {
	case CiliumLike:
		middle = p.backlog(call("tcf_classify", 70, call("bpf:hb_tc_from_endpoint", 96, call("htab_map_lookup_elem", 110, call("lookup_nulls_elem_raw", 48)))), call("skb_do_redirect", 80, call("__bpf_redirect", 60, deliver)))
	case XDP:
		middle = p.backlog(p.bridge(call("napi_schedule_prep", 30), p.napi(deliver)))
	case TCHash:
		middle = p.backlog(p.bridge(call("tcf_classify", 70, call("bpf:hb_tc_to_endpoint", 104, call("htab_map_lookup_elem", 110, call("lookup_nulls_elem_raw", 48)))), deliver))
	default:
		middle = p.backlog(p.bridge(deliver))
	}
	return call("__dev_queue_xmit", 240, call("netdev_core_pick_tx", 40), call("validate_xmit_skb", 95, call("netif_skb_features", 60)), call("dev_hard_start_xmit", 55, call("veth_xmit", 140, call("__dev_forward_skb", 60), call("__netif_rx", 14, call("enqueue_to_backlog", 90)))),
		call("__local_bh_enable_ip", 30, middle))
}

// softirq runs what a poll function does with a packet.
func softirq(poll *trace.Call) *trace.Call {
	return chain([]string{"do_softirq.part.0", "handle_softirqs", "net_rx_action", "__napi_poll"}, 45, poll)
}

func (p packets) backlog(inner ...*trace.Call) *trace.Call {
	return softirq(call("process_backlog", 85, call("__netif_receive_skb", 22, call("__netif_receive_skb_one_core", 30, call("__netif_receive_skb_core.constprop.0", 220, inner...)))))
}

// napi is the veth's own poll, with a program of XDP.
func (p packets) napi(deliver *trace.Call) *trace.Call {
	program := call("bpf:hb_xdp", 120, call("htab_map_lookup_elem", 110, call("lookup_nulls_elem_raw", 48)))
	return call("veth_poll", 130, call("veth_xdp_rcv", 110, call("veth_xdp_rcv_skb", 160, call("veth_convert_skb_to_xdp_buff", 210, call("skb_pp_cow_data", 260, call("page_pool_alloc_frag_netmem", 130))), program)),
		call("napi_gro_receive", 60, call("dev_gro_receive", 190, call("inet_gro_receive", 120, call("tcp4_gro_receive", 150)))), deliver)
}

func (p packets) bridge(inner ...*trace.Call) *trace.Call {
	hooks := call("br_nf_pre_routing", 130, call("nf_hook_slow", 42, call("ip_sabotage_in", 14)))
	forward := call("br_forward", 40, call("__br_forward", 50, call("br_forward_finish", 30, call("br_dev_queue_push_xmit", 45, call("__dev_queue_xmit", 230, append([]*trace.Call{call("dev_hard_start_xmit", 55, call("veth_xmit", 140))}, inner...)...)))))
	return call("br_handle_frame", 150, hooks, call("br_handle_frame_finish", 190, call("br_fdb_find_rcu", 60), forward))
}

// deliver is a packet at its receiver: up to the wake-up.
func (p packets) deliver() *trace.Call {
	return call("ip_rcv", 60, call("ip_rcv_core", 130), p.hook("PREROUTING"), call("ip_rcv_finish", 25, call("tcp_v4_early_demux", 80)),
		call("ip_local_deliver", 28, p.hook("INPUT"), call("ip_local_deliver_finish", 20, call("ip_protocol_deliver_rcu", 50, call("tcp_v4_rcv", 390, call("tcp_v4_do_rcv", 40,
			call("tcp_rcv_established", 410, call("tcp_ack", 620, call("tcp_clean_rtx_queue.constprop.0", 380)), call("tcp_queue_rcv", 60),
				call("tcp_data_ready", 25, call("sock_def_readable", 60, call("__wake_up_sync_key", 20, call("__wake_up_common", 50, call("receiver_wake_function", 20, call("autoremove_wake_function", 15, call("try_to_wake_up", 210, call("ttwu_do_activate", 50, call("enqueue_task_rt", 230))))))))))))))))
}
