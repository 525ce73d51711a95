package callpath

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// dropText is what the event says with stacks: of Linux 6.12, and of 5.10, which has no reasons.
const dropText = `# tracer: nop
#
           guest-271     [001] b.s21   170.104451: kfree_skb: skbaddr=ffff8d3a4b6f2e00 rx_sk=0000000000000000 protocol=2048 location=nf_hook_slow+0x9a/0x100 reason: NETFILTER_DROP
           guest-271     [001] b.s21   170.104501: <stack trace>
 => sk_skb_reason_drop
 => nf_hook_slow
 => ip_local_deliver
 => __netif_receive_skb_one_core
           guest-271     [001] b.s21   170.204451: kfree_skb: skbaddr=ffff8d3a4b6f2e00 rx_sk=0000000000000000 protocol=2048 location=nf_hook_slow+0x9a/0x100 reason: NETFILTER_DROP
           guest-271     [001] b.s21   170.204501: <stack trace>
 => sk_skb_reason_drop
 => nf_hook_slow
 => ip_local_deliver
 => __netif_receive_skb_one_core
           guest-271     [001] b.s21   170.304451: kfree_skb: skbaddr=ffff8d3a4b6f2e00 rx_sk=0000000000000000 protocol=2048 location=nf_hook_slow+0x9a/0x100 reason: NETFILTER_DROP
           guest-271     [001] b.s21   170.304501: <stack trace>
 => sk_skb_reason_drop
 => nf_hook_slow
 => ip_forward
`

const oldDropText = `           guest-271     [001] ..s1   170.104451: kfree_skb: skbaddr=00000000a8a3b1c4 protocol=2048 location=0000000031d9a2f1
           guest-271     [001] ..s1   170.104501: <stack trace>
 => kfree_skb
 => tcp_v4_rcv.constprop.0
 => ip_protocol_deliver_rcu
`

func TestReadDrops(t *testing.T) {
	got, err := ReadDrops(strings.NewReader(dropText))
	if err != nil {
		t.Fatal(err)
	}
	want := Drops{Reasons: true, Drops: []Drop{
		{Packets: 2, Reason: "NETFILTER_DROP", Where: "nf_hook_slow", Stack: []string{"__netif_receive_skb_one_core", "ip_local_deliver", "nf_hook_slow"}},
		{Packets: 1, Reason: "NETFILTER_DROP", Where: "nf_hook_slow", Stack: []string{"ip_forward", "nf_hook_slow"}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if places := got.ByPlace(); !reflect.DeepEqual(places, []Drop{{Packets: 3, Reason: "NETFILTER_DROP", Where: "nf_hook_slow"}}) {
		t.Errorf("by place: %+v", places)
	}
	old, err := ReadDrops(strings.NewReader(oldDropText))
	if err != nil {
		t.Fatal(err)
	}
	if len(old.Drops) != 1 || old.Reasons || old.Drops[0].Where != "tcp_v4_rcv" || old.Drops[0].Reason != "" {
		t.Errorf("without reasons: %+v", old)
	}
}

// Where two CPUs drop at once, each drop has the stack of its own CPU; where one drop interrupts
// another, the stack of the inner one comes first. A stack whose event was lost is no other's.
func TestDropsAtOnce(t *testing.T) {
	const text = `          <idle>-0       [000] ..s1.    60.101000: <stack trace>
 => kfree_skb_reason
 => lost_function
          <idle>-0       [000] ..s1.    60.104451: kfree_skb: skbaddr=0000000011111111 protocol=2048 location=00000000aaaaaaaa reason: TC_INGRESS
          <idle>-0       [001] ..s1.    60.104460: kfree_skb: skbaddr=0000000022222222 protocol=2048 location=00000000bbbbbbbb reason: NETFILTER_DROP
          <idle>-0       [000] ..s1.    60.104501: <stack trace>
 => kfree_skb_reason
 => __netif_receive_skb_core.constprop.0
 => net_rx_action
          <idle>-0       [001] ..s1.    60.104508: <stack trace>
 => kfree_skb_reason
 => nf_hook_slow
 => ip_local_deliver
       [odd]-271     [001] .....    60.204451: kfree_skb: skbaddr=0000000033333333 protocol=2048 location=00000000cccccccc reason: NO_SOCKET
       [odd]-271     [001] ..s1.    60.204452: kfree_skb: skbaddr=0000000044444444 protocol=2048 location=00000000aaaaaaaa reason: TC_INGRESS
       [odd]-271     [001] ..s1.    60.204453: <stack trace>
 => kfree_skb_reason
 => __netif_receive_skb_core.constprop.0
 => net_rx_action
       [odd]-271     [001] .....    60.204454: <stack trace>
 => kfree_skb_reason
 => tcp_v4_rcv
`
	got, err := ReadDrops(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Drop{
		{Packets: 2, Reason: "TC_INGRESS", Where: "__netif_receive_skb_core", Stack: []string{"net_rx_action", "__netif_receive_skb_core"}},
		{Packets: 1, Reason: "NETFILTER_DROP", Where: "nf_hook_slow", Stack: []string{"ip_local_deliver", "nf_hook_slow"}},
		{Packets: 1, Reason: "NO_SOCKET", Where: "tcp_v4_rcv", Stack: []string{"tcp_v4_rcv"}},
	}
	if !reflect.DeepEqual(got.Drops, want) {
		t.Errorf("%+v, want %+v", got.Drops, want)
	}
}

// A kernel without reasons is said to have none, and a denial that no event was seen of is said, too.
func TestWriteDrops(t *testing.T) {
	dir := t.TempDir()
	old, err := ReadDrops(strings.NewReader(oldDropText))
	if err != nil {
		t.Fatal(err)
	}
	old.Denied = []string{"unlisted source"}
	none := Drops{Denied: []string{"unlisted source"}}
	for cell, c := range map[string]struct {
		drops Drops
		want  string
	}{"aaa": {old, "This kernel has no reasons: they came with Linux 5.17."}, "bbb": {none, "No packet was dropped by kfree_skb"}} {
		rec := Recording{Cell: cell, Factors: map[string]string{"arm": "x", "scenario": "localhost"}, Kernel: "5.10", Status: "ok", Drops: &c.drops}
		if err := Write(dir, rec); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, cell, "drop.md"))
		if err != nil || !strings.Contains(string(data), c.want) || !strings.Contains(string(data), "unlisted source") {
			t.Errorf("%s: %v, no %q in\n%s", cell, err, c.want, data)
		}
		if _, err := os.Stat(filepath.Join(dir, cell, "path.md")); !os.IsNotExist(err) {
			t.Errorf("%s: a path.md without a path (%v)", cell, err)
		}
	}
}

// ftrace.json says that a path is of order only.
func TestWriteRecording(t *testing.T) {
	dir := t.TempDir()
	p := pathOf(t, "6.12")
	rec := Recording{Cell: "ccc", Factors: map[string]string{"arm": "docker"}, Clock: "wall", Status: "ok", WhyNot: "there is no counter",
		Calls: &Calls{OrderOnly: true, Buffer: "instance", Unit: "transaction", Units: p.Units, Same: p.Same, Paths: p.Paths}, Path: p, Raw: map[string]string{rawCalls + "node1": "text", rawDrops + "node2": "more"}}
	if err := Write(dir, rec); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "ccc", "ftrace.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if calls, _ := got["calls"].(map[string]any); calls["order_only"] != true || got["clock"] != "wall" || got["instructions"] != nil {
		t.Errorf("ftrace.json: %s", data)
	}
	path, err := os.ReadFile(filepath.Join(dir, "ccc", "path.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"**Order only.**", "There is no counter.", "## The way in order", "\n  x64_sys_call\n    __x64_sys_sendto   # system call sendto\n"} {
		if !strings.Contains(string(path), want) {
			t.Errorf("no %q in path.md:\n%.1500s", want, path)
		}
	}
	for _, raw := range []string{"function_graph-node1.txt.gz", "kfree_skb-node2.txt.gz"} {
		if _, err := os.Stat(filepath.Join(dir, "ccc", raw)); err != nil {
			t.Error(err)
		}
	}
}
