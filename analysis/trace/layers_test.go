package trace

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// knownFunctions are functions of the paths that hookbed measures, of Linux 5.10 to 7.x, without
// those that are called from many places.
//
//go:embed testdata/functions.txt
var knownFunctions string

// Each name is in the table once, and "*" is at the end of a name only.
func TestLayerTable(t *testing.T) {
	seen := map[string]Layer{}
	for _, line := range layerTable() {
		if !slices.Contains(Layers(), line.layer) {
			t.Errorf("%q is not among Layers", line.layer)
		}
		for _, name := range strings.Fields(line.names) {
			if other, ok := seen[name]; ok {
				t.Errorf("%s is in %q and in %q", name, other, line.layer)
			}
			seen[name] = line.layer
			if i := strings.Index(name, "*"); i >= 0 && i != len(name)-1 {
				t.Errorf("%s: * is for the end of a name", name)
			}
		}
	}
	colors := map[string]Layer{}
	for _, l := range Layers() {
		if other, ok := colors[l.Color()]; ok {
			t.Errorf("%q and %q have one color", l, other)
		}
		colors[l.Color()] = l
	}
}

// At most one in a hundred of the functions that are met on these paths has no layer of its own.
func TestKnownFunctionsHaveLayers(t *testing.T) {
	n, names := newLayerNamer(), strings.Fields(knownFunctions)
	var without []string
	for _, name := range names {
		if n.rule(name).layer == "" {
			without = append(without, name)
		}
	}
	if len(names) < 500 || 100*len(without) > len(names) {
		t.Errorf("%d of %d functions have no layer: %s", len(without), len(names), strings.Join(without, " "))
	}
}

// transaction has the functions of the system calls by which netperf's transactions were made on
// Linux 6.12, from a trace of the arm docker, with the instructions of each.
//
//go:embed testdata/transaction-6.12.txt
var transaction string

// Of a real transaction, 85 of 100 instructions are of functions with a layer of their own; the others
// are called from many places.
func TestLayersOfARealTransaction(t *testing.T) {
	n, named, all := newLayerNamer(), 0, 0
	for _, line := range strings.Split(strings.TrimSpace(transaction), "\n") {
		name, count, _ := strings.Cut(line, " ")
		v, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		all += v
		if n.rule(name).layer != "" {
			named += v
		}
	}
	if all < 1_000_000 || 100*named < 85*all {
		t.Errorf("%d of %d instructions are of functions with a layer", named, all)
	}
}

func TestLayerOf(t *testing.T) {
	for stack, want := range map[string]Layer{
		"client":                                       LayerClient,
		"server;netserver:recv_tcp_rr":                 LayerServer,
		"client;netperf:main;libc.so.6:send":           LayerClient,
		"iperf3;iperf3:iperf_run":                      LayerPrograms,
		"helper;hookbed-guest:main.main":               LayerPrograms,
		"client;netperf:main;entry_SYSCALL_64":         LayerSyscall,
		"client;unheard_of":                            LayerOther,
		"client;unheard_of;another":                    LayerOther,
		"client;unheard_of;tcp_ack;memcpy":             LayerCopy,
		"kernel;ksoftirqd/0;unheard_of":                LayerSoftirq,
		"kernel;unheard_of":                            LayerHousekeeper,
		"idle;do_idle;unheard_of":                      LayerIdle,
		"idle;do_idle;tick_nohz_idle_enter":            LayerIdle,
		"idle;do_idle;schedule_idle;__schedule":        LayerWakeup,
		"client;br_handle_frame;_raw_spin_lock":        LayerBridge,
		"client;tcp_sendmsg_locked;memcpy":             LayerCopy,
		"client;br_handle_frame;memcpy":                LayerBridge,
		"client;ipt_do_table;memcmp":                   LayerIptables,
		"client;tcp_ack.isra.0":                        LayerTCP,
		"client;nft_do_chain [nf_tables]":              LayerNftables,
		"client;__alloc_skb;kmem_cache_alloc_node":     LayerSKB,
		"client;tcp_v4_rcv;kmem_cache_alloc":           LayerMemory,
		"client;tcp_v4_rcv;asm_exc_page_fault":         LayerInterrupts,
		"client;br_nf_pre_routing":                     LayerNetfilter,
		"client;bpf:hb_tc;htab_map_lookup_elem;memcmp": LayerBPF,
		"client;bpf:hb_tc;kmem_cache_alloc":            LayerBPF,
		"client;veth_xdp_rcv_skb;page_pool_alloc":      LayerXDP,
		"client;__alloc_skb;page_pool_alloc":           LayerSKB,
		"client;sock_def_readable;__wake_up_common":    LayerWakeup,
		"client;ip_set_test;hash_ipport4_kadt":         LayerIPSet,
		"client;ip_rcv;ipv4_conntrack_in":              LayerConntrack,
		"client;vxlan_xmit;udp_tunnel_xmit_skb":        LayerOverlay,
		"client;ovs_dp_process_packet;memcmp":          LayerOVS,
		"client;net_rx_action;napi_gro_receive":        LayerGRO,
		"client;rcu_core;rcu_do_batch":                 LayerHousekeeper,
		"client;netperf:main;tcp_ack;netperf:x":        LayerTCP,
	} {
		if got := LayerOf(strings.Split(stack, ";")); got != want {
			t.Errorf("%s: %q, want %q", stack, got, want)
		}
	}
}

// A tree's layers are those of its stacks.
func TestLayersOfTree(t *testing.T) {
	tree := smallTrace().Measured
	for i, l := range tree.layers() {
		if want := LayerOf(tree.stack(i)); l != want {
			t.Errorf("%v: %q, want %q", tree.stack(i), l, want)
		}
	}
}

func TestStageOf(t *testing.T) {
	for stack, want := range map[string]string{
		"client":                                               "",
		"client;entry_SYSCALL_64":                              "",
		"client;__x64_sys_sendto":                              "system call sendto",
		"client;bpf:hb_tc_ingress":                             "BPF program hb_tc_ingress",
		"client;ip_rcv;nf_hook_slow":                           "netfilter PREROUTING",
		"client;ip_rcv;nf_hook.constprop.0;nf_hook_slow":       "netfilter PREROUTING",
		"client;ip_sublist_rcv;nf_hook_slow_list":              "netfilter PREROUTING",
		"client;ip_local_deliver;nf_hook_slow":                 "netfilter INPUT",
		"client;ip_forward;nf_hook_slow":                       "netfilter FORWARD",
		"client;__ip_local_out;nf_hook_slow":                   "netfilter OUTPUT",
		"client;ip_output;nf_hook_slow":                        "netfilter POSTROUTING",
		"client;br_nf_pre_routing;nf_hook_slow":                "netfilter PREROUTING on the bridge",
		"client;br_nf_forward_ip.part.0;nf_hook_slow":          "netfilter FORWARD on the bridge",
		"client;br_nf_post_routing;nf_hook_slow":               "netfilter POSTROUTING on the bridge",
		"client;__br_forward;nf_hook_slow":                     "netfilter bridge FORWARD",
		"client;br_dev_xmit;__br_forward;nf_hook_slow":         "netfilter bridge OUTPUT",
		"client;br_forward_finish;nf_hook_slow":                "netfilter bridge POSTROUTING",
		"client;unheard_of;nf_hook_slow":                       "netfilter",
		"client;__dev_queue_xmit;tcf_classify":                 "tc egress",
		"client;__netif_receive_skb_core;tcf_classify":         "tc ingress",
		"client;__netif_receive_skb_core;tcx_run":              "tc ingress",
		"client;__netif_receive_skb_core;tcf_classify_ingress": "tc ingress",
		"client;ip_local_deliver;nf_hook_slow;ipt_do_table":    "iptables rules",
		"client;__dev_queue_xmit;veth_xmit":                    "veth",
	} {
		if got := StageOf(strings.Split(stack, ";")); got != want {
			t.Errorf("%s: %q, want %q", stack, got, want)
		}
	}
}
