package step

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/images"
)

// externalRig is a rig with the root of external programs, which is built if the cache lacks it.
func externalRig(t *testing.T) *rig {
	t.Helper()
	store, err := images.Open("", images.Options{Log: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{External: true})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.x.external.root = set.ExternalDir
	return r
}

func connect(what, want string) bundle.Probe {
	return bundle.Probe{What: what, From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: want}
}

// others is the address of the i-th source that policies name in addition to the client.
func others(i int) string { return fmt.Sprintf("198.19.%d.%d", i/250, 1+i%250) }

// addressLines are entries of xdp-filter's map for the sources of N policies.
func addressLines(n int, more ...string) string {
	var b strings.Builder
	for i := range n {
		more = append(more, others(i))
	}
	for _, a := range more {
		var v [4]byte
		_, err := fmt.Sscanf(a, "%d.%d.%d.%d", &v[0], &v[1], &v[2], &v[3])
		if err != nil {
			panic(err)
		}
		b.WriteString(hex.EncodeToString(v[:]) + " " + hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, 1)) + "\n")
	}
	return b.String()
}

func TestXDPFilter(t *testing.T) {
	for hook, mode := range map[string]string{bundle.HookXDPNative: "native", bundle.HookXDPGeneric: "skb"} {
		for _, n := range []int{1, 100, 1000} {
			t.Run(fmt.Sprintf("deny others/%s/%d", mode, n), func(t *testing.T) { testXDPFilter(t, hook, mode, "deny", n) })
			t.Run(fmt.Sprintf("allow others/%s/%d", mode, n), func(t *testing.T) { testXDPFilter(t, hook, mode, "allow", n) })
		}
	}
}

// testXDPFilter loads xdp-filter by itself, fills its map, and holds it to its
// list and its counters. policy is its own word: what becomes of the rest.
func testXDPFilter(t *testing.T, hook, mode, policy string, n int) {
	r := externalRig(t)
	r.pair()
	listed, unlisted := bundle.Allow, bundle.Deny
	infra := []string{"198.18.1.2"} // the client, whose ARP counts as its packets
	if policy == "allow" {
		listed, unlisted, infra = bundle.Deny, bundle.Allow, nil
	}
	r.file("addresses", addressLines(n, infra...))
	before := r.state(r.x.endpoints["server"].Namespace)
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.x.undo.mark()
	counter := bundle.Counter{BPF: &bundle.BPFCounter{Handle: "peer", Stats: "xdp_stats_map", Maps: []string{"filter_ipv4"},
		Ranges: []bundle.StatRange{{Key: "dropped", First: 1, Count: 1}, {Key: "accepted", First: 2, Count: 1}}}}
	load := r.must("server", bundle.Tool{
		Do:   bundle.Program{Argv: []string{"xdp-filter", "load", "{name:eth0}", "-m", mode, "-f", "ipv4", "-p", policy}},
		Undo: &bundle.Program{Argv: []string{"xdp-filter", "unload", "eth0"}},
	})
	if load.Values["load_seconds"] <= 0 {
		t.Errorf("the load took %v", load.Values)
	}
	fill := r.must("server", bundle.AdoptBPF{Handle: "peer", Pins: "/sys/fs/bpf/xdp-filter", Maps: []string{"filter_ipv4", "xdp_stats_map"}, Link: "eth0", Hook: hook},
		bundle.FillMap{Handle: "peer", Map: "filter_ipv4", File: "addresses"})
	t.Logf("load %.3f s, fill %.6f s, %v bytes", load.Values["load_seconds"], fill.Values["load_seconds"], fill.Values["memory_bytes"])
	r.must("server", bundle.Read{Name: "before", From: counter})
	tries := []bundle.Probe{
		{What: "a listed source", From: others(n / 2), To: "198.18.1.3", Port: 5001, Want: listed},
		{What: "a source that is not listed", From: "198.19.255.9", To: "198.18.1.3", Port: 5001, Want: unlisted},
		connect("the client", bundle.Allow),
	}
	if policy == "deny" {
		// The source has no neighbour entry that the list would let through.
		r.must("server", bundle.Neigh{Link: "eth0", IP: others(n / 2), MAC: linkOf(t, r.x.endpoints["client"].Namespace, "eth0").HardwareAddr.String()})
	}
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.3, Tries: tries})
	r.must("server", bundle.Read{Name: "after", From: counter},
		bundle.Expect{What: "size", Read: "after", Key: "entries.filter_ipv4", Op: bundle.Equal, Value: uint64(n + len(infra))},
		bundle.Expect{What: "drops", Read: "after", Since: "before", Key: "dropped", Op: bundle.AtLeast, Value: 1},
		bundle.Expect{What: "passes", Read: "after", Since: "before", Key: "accepted", Op: bundle.AtLeast, Value: 1})
	r.fails("server", bundle.FaultSubject, bundle.AdoptBPF{Handle: "peer", Pins: "/sys/fs/bpf/xdp-filter", Link: "eth0", Hook: otherMode(hook)}, "want a program at hook")
	r.undo(1)
	r.must("server", bundle.Stop{Handle: "l"})
	r.must("server", bundle.Listen{Handle: "l2", Port: 5001})
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.3, Tries: []bundle.Probe{
		connect("the client", bundle.Allow), {What: "a listed source", From: others(n / 2), To: "198.18.1.3", Port: 5001, Want: bundle.Allow},
	}})
	if after := r.state(r.x.endpoints["server"].Namespace); after != before {
		t.Errorf("undo left\n%s\nwanted\n%s", after, before)
	}
}

func otherMode(hook string) string {
	if hook == bundle.HookXDPNative {
		return bundle.HookXDPGeneric
	}
	return bundle.HookXDPNative
}

func (r *rig) undo(mark int) {
	r.t.Helper()
	if err := r.x.undoTo(mark); err != nil {
		r.t.Fatal(err)
	}
}

// bpfilterRules writes N policies as bpfilter's own language has them.
func bpfilterRules(hook, form, verdict, otherwise string, n int, last string) string {
	var sources []string
	for i := range n {
		sources = append(sources, others(i))
	}
	if last != "" {
		sources[n-1] = last
	}
	var b strings.Builder
	fmt.Fprintf(&b, "chain hookbed %s %s\nrule meta.l3_proto eq 0 counter ACCEPT\n", hook, otherwise)
	if form == "set" {
		fmt.Fprintf(&b, "rule (ip4.saddr, tcp.dport) in { %s, 5001 } counter %s\n", strings.Join(sources, ", 5001; "), verdict)
		return b.String()
	}
	for _, s := range sources {
		fmt.Fprintf(&b, "rule ip4.saddr eq %s tcp.dport eq 5001 counter %s\n", s, verdict)
	}
	return b.String()
}

func TestBPFilter(t *testing.T) {
	for name, hook := range map[string]string{
		"tc": "BF_HOOK_TC_INGRESS{ifindex={index:eth0}}", "input": "BF_HOOK_NF_LOCAL_IN{family=inet4,priorities=101-102}", "xdp": "BF_HOOK_XDP{ifindex={index:eth0}}",
	} {
		for form, sizes := range map[string][]int{"linear": {1, 100, 1000}, "set": {1, 100, 1000, 10000}} {
			for _, n := range sizes {
				t.Run(fmt.Sprintf("%s/%s/allow/%d", name, form, n), func(t *testing.T) { testBPFilter(t, hook, form, "allow", n) })
			}
			t.Run(fmt.Sprintf("%s/%s/deny/100", name, form), func(t *testing.T) { testBPFilter(t, hook, form, "deny", 100) })
		}
	}
}

// testBPFilter starts the daemon, loads a chain twice, and holds it to its
// rules and its counters.
func testBPFilter(t *testing.T, hook, form, action string, n int) {
	r := externalRig(t)
	r.pair()
	rules, verdict, otherwise, last, listed, unlisted := 1, "ACCEPT", "DROP", "198.18.1.2", bundle.Allow, bundle.Deny
	if action == "deny" {
		verdict, otherwise, last, listed, unlisted = "DROP", "ACCEPT", "", bundle.Deny, bundle.Allow
	}
	if form == "linear" {
		rules = n
	}
	rules++ // ARP's
	r.file("chain", bpfilterRules(hook, form, verdict, otherwise, n, last))
	before := r.state(r.x.endpoints["server"].Namespace)
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.x.undo.mark()
	r.must("server", bundle.Daemon{Handle: "bpfilter", Argv: []string{"bpfilter", "--transient", "--no-iptables", "--no-nftables"}, Socket: "/run/bpfilter/daemon.sock"})
	daemon := r.x.external.daemons["bpfilter"].PID
	hits, misses := "accepted", "dropped"
	if action == "deny" {
		hits, misses = misses, hits
	}
	counter := bundle.Counter{BPF: &bundle.BPFCounter{Handle: "peer", Stats: "counters_map", Ranges: []bundle.StatRange{
		{Key: "unjudged", Count: 1}, {Key: hits, First: 1, Count: uint32(rules) - 1}, {Key: misses, First: uint32(rules), Count: 1}, {Key: "errors", First: uint32(rules) + 1, Count: 1},
	}}}
	set := bundle.Tool{Do: bundle.Program{Argv: []string{"bfcli", "chain", "set", "--from-file", "/proc/self/fd/0"}, Stdin: "chain"},
		Undo: &bundle.Program{Argv: []string{"bfcli", "ruleset", "flush"}}}
	var names []string
	for range 2 {
		load := r.must("server", set)
		adopt := r.must("server", bundle.AdoptBPF{Handle: "peer", Daemon: "bpfilter", Maps: []string{"counters_map"}})
		for name, m := range r.x.objects["peer"].Maps {
			names = append(names, fmt.Sprintf("%s(%d)", name, m.MaxEntries()))
		}
		t.Logf("load %.3f s, %.0f bytes", load.Values["load_seconds"], adopt.Values["memory_bytes"])
	}
	slices.Sort(names)
	for name, p := range r.x.objects["peer"].Programs {
		t.Logf("program %s %v, maps %v", name, p.Type(), slices.Compact(names))
	}
	r.must("server", bundle.Read{Name: "before", From: counter})
	tries := []bundle.Probe{
		{What: "a listed source", From: others(0), To: "198.18.1.3", Port: 5001, Want: listed},
		{What: "a source that is not listed", From: "198.19.255.9", To: "198.18.1.3", Port: 5001, Want: unlisted},
		connect("the client", bundle.Allow),
	}
	if n == 1 && action == "allow" {
		tries = tries[1:]
	}
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.3, Tries: tries})
	got := r.must("server", bundle.Read{Name: "after", From: counter},
		bundle.Expect{What: "size", Read: "after", Key: "slots", Op: bundle.Equal, Value: uint64(rules + 2)},
		bundle.Expect{What: "drops", Read: "after", Since: "before", Key: "dropped", Op: bundle.AtLeast, Value: 1},
		bundle.Expect{What: "passes", Read: "after", Since: "before", Key: "accepted", Op: bundle.AtLeast, Value: 3},
		bundle.Read{Name: "after", From: counter}).Values
	t.Logf("counters %v", got)
	if got["errors"] != 0 {
		t.Errorf("the program counted %v errors", got["errors"])
	}
	r.undo(1)
	if err := unix.Kill(daemon, 0); err == nil {
		t.Errorf("daemon %d is still there", daemon)
	}
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.3, Tries: []bundle.Probe{{What: "a listed source", From: others(1), To: "198.18.1.3", Port: 5001, Want: bundle.Allow}}})
	if after := r.state(r.x.endpoints["server"].Namespace); after != before {
		t.Errorf("undo left\n%s\nwanted\n%s", after, before)
	}
}

func TestExternalLeavesNothing(t *testing.T) {
	r := externalRig(t)
	r.pair()
	for range 2 {
		r.x.undo.mark()
		mark := len(r.x.undo.marks)
		r.must("server", bundle.Daemon{Handle: "d", Argv: []string{"bpfilter", "--transient"}, Socket: "/run/bpfilter/daemon.sock"})
		pid := r.x.external.daemons["d"].PID
		r.undo(mark)
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			t.Errorf("daemon %d is still there", pid)
		}
	}
	for _, dir := range []string{"run", "tmp", "proc", "sys/fs/bpf"} {
		if left, err := os.ReadDir(filepath.Join(r.x.external.root, dir)); err != nil || len(left) > 0 {
			t.Errorf("the external programs' /%s holds %v (%v) outside", dir, left, err)
		}
	}
	r.fails("server", bundle.FaultSubject, bundle.Tool{Do: bundle.Program{Argv: []string{"xdp-filter", "load", "nosuch"}}}, "xdp-filter load nosuch")
	r.fails("server", bundle.FaultSubject, bundle.Tool{Do: bundle.Program{Argv: []string{"bfcli", "ruleset", "get"}, Timeout: 60}}, "bfcli ruleset get")
	r.fails("server", bundle.FaultSubject, bundle.Daemon{Handle: "d", Argv: []string{"bpfilter", "--nonsense"}, Socket: "/run/bpfilter/daemon.sock"}, "ended before it listened")
	r.fails("server", bundle.FaultRig, bundle.AdoptBPF{Handle: "a", Daemon: "nobody"}, `no daemon "nobody"`)
	r.fails("server", bundle.FaultRig, bundle.Tool{Do: bundle.Program{Argv: []string{"nosuch"}}}, `no command "nosuch"`)
}

func TestScript(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.file("apply.sh", "#!/bin/sh\nset -e\ntest \"$(cat \"$HOOKBED_POLICIES\")\" = one\nip link set dev $HOOKBED_LINK alias \"made by $HOOKBED_N\"\n(setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! > $1)\n")
	r.file("remove.sh", "#!/bin/sh\nip link set dev $HOOKBED_LINK alias \"\"\n")
	r.file("counters.sh", "#!/bin/sh\ncat\n")
	r.file("policies.csv", "one\n")
	r.file("numbers", `{"packets": 7, "bytes": 700, "dropped": 3, "accepted": 4, "entries": 1}`)
	r.file("less", `{"packets": 7, "bytes": 700, "dropped": 3, "accepted": 4}`)
	r.file("nothing", `null`)
	r.file("words", `seven packets`)
	env := map[string]string{"HOOKBED_LINK": "{name:peer:server/eth0}", "HOOKBED_N": "1", "HOOKBED_POLICIES": "{dir}/policies.csv"}
	out := filepath.Join(t.TempDir(), "pid")
	r.x.undo.mark()
	r.must("", bundle.Tool{
		Do:   bundle.Program{Script: "apply.sh", Argv: []string{out}, Env: env, Files: []string{"policies.csv"}},
		Undo: &bundle.Program{Script: "remove.sh", Env: env},
	})
	if l := linkOf(t, r.x.node.Namespace, "s0"); l.Alias != "made by 1" {
		t.Errorf("the script left alias %q", l.Alias)
	}
	counter := func(stdin string) bundle.Counter {
		return bundle.Counter{Script: &bundle.Program{Script: "counters.sh", Stdin: stdin}}
	}
	r.must("", bundle.Read{Name: "now", From: counter("numbers")}, bundle.Expect{What: "drops", Read: "now", Key: "dropped", Op: bundle.Equal, Value: 3})
	r.fails("", bundle.FaultSubject, bundle.Read{Name: "bad", From: counter("words")}, "one JSON object of whole numbers", "seven packets")
	r.fails("", bundle.FaultSubject, bundle.Read{Name: "bad", From: counter("less")}, `its output has no "entries"`)
	r.fails("", bundle.FaultSubject, bundle.Read{Name: "bad", From: counter("nothing")}, `its output has no "packets"`)
	for name, text := range map[string]string{"crlf.sh": "#!/bin/sh\r\ntrue\r\n", "plain.sh": "true\n", "perl5000.sh": "#!/usr/bin/perl5000\n", "elsewhere.sh": "#!/no/such/shell\n", "directory.sh": "#!/\n"} {
		r.file(name, text)
		r.fails("", bundle.FaultSubject, bundle.Tool{Do: bundle.Program{Script: name}}, "script "+name+":", "names no interpreter that this machine has")
	}
	r.file("slow.sh", "#!/bin/sh\necho tired >&2\nsleep 3600\n")
	r.expires("", "tired", func(limit float64) bundle.Action {
		return bundle.Tool{Do: bundle.Program{Script: "slow.sh", Timeout: limit}}
	})
	r.undo(1)
	if l := linkOf(t, r.x.node.Namespace, "s0"); l.Alias != "" {
		t.Errorf("undo left alias %q", l.Alias)
	}
	if left, err := filepath.Glob(filepath.Join(r.x.blobs, "script.*")); err != nil || len(left) > 0 {
		t.Errorf("scripts left %v (%v)", left, err)
	}
}
