package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/images"
)

// builtObject is where a machine without a compiler has the test programs.
const builtObject = "/hookbed/counting.o"

// counting compiles the test programs.
func counting(t *testing.T) string {
	t.Helper()
	if data, err := os.ReadFile(builtObject); err == nil {
		return string(data)
	}
	compiler, err := pinnedCompiler()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "counting.o")
	cmd := compiler.Command(t.Context(), "-O2", "-g", "-Wall", "-target", "bpf", "-c", "testdata/counting.bpf.c", "-o", out)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the test programs: %v\n%s", err, msg)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pinnedCompiler is the compiler of package bpf's objects. It is checked once: that takes as long as
// reading all of it.
var pinnedCompiler = sync.OnceValues(func() (images.Compiler, error) {
	store, err := images.Open("", images.Options{Drift: "allow"})
	if err != nil {
		return images.Compiler{}, err
	}
	return store.Compiler(context.Background())
})

func TestBPF(t *testing.T) {
	object := counting(t)
	for _, tc := range []struct{ hook, program, shown string }{
		{bundle.HookTCIngress, "tc_count", "tc"},
		{bundle.HookTCEgress, "tc_count", "tc"},
		{bundle.HookTCXIngress, "tc_count", "tcx"},
		{bundle.HookTCXEgress, "tc_count", "tcx"},
		{bundle.HookXDPNative, "xdp_count", "xdp"},
		{bundle.HookXDPGeneric, "xdp_count", "xdp"},
	} {
		t.Run(tc.hook, func(t *testing.T) {
			if tc.shown == "tcx" && !since(6, 6) {
				testNoTCX(t, object, tc.hook, tc.program)
				return
			}
			testAttach(t, object, tc.hook, tc.program)
		})
	}
}

// since says whether this kernel is of a version or newer. What came with one is
// asked of it, and what older ones say instead of them.
func since(major, minor int) bool {
	var a, b int
	_, _ = fmt.Sscanf(fault.KernelRelease(), "%d.%d", &a, &b)
	return a > major || a == major && b >= minor
}

// testNoTCX: a kernel before 6.6 says what is missing.
func testNoTCX(t *testing.T, object, hook, program string) {
	t.Helper()
	r := newRig(t)
	r.file("counting", object)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{program}})
	r.fails("", bundle.FaultUnsupported, bundle.AttachBPF{Handle: "o", Program: program, Link: "a0", Hook: hook}, "attach to a0: tcx needs Linux 6.6")
}

// testAttach puts a dropping program on the server's own link, proves that it
// drops and counts, and that undoing lets packets through again.
func testAttach(t *testing.T, object, hook, program string) {
	r := newRig(t)
	r.pair()
	r.file("counting", object)
	before := r.state(r.x.endpoints["server"].Namespace)
	r.must("server", bundle.Listen{Handle: "probe", Port: 5001})
	try := func(want string) bundle.Probes {
		return bundle.Probes{Link: "eth0", Timeout: 0.2, Tries: []bundle.Probe{{What: "client", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: want}}}
	}
	r.must("client", try(bundle.Allow))
	r.x.undo.mark()
	counter := bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats"}}
	r.must("server",
		bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{program},
			Vars: map[string]string{"verdict": "01000000", "drop": "01"}, LinkVars: map[string]string{"link_index": "eth0"}},
		bundle.Read{Name: "before", From: counter},
		bundle.AttachBPF{Handle: "o", Program: program, Link: "eth0", Hook: hook})
	r.must("client", try(bundle.Deny))
	r.awaitCounter("server", counter, func(got map[string]float64) bool { return got["dropped"] > 0 })
	got := r.must("server", bundle.Read{Name: "after", From: counter},
		bundle.Read{Name: "after", From: counter}).Values
	if got["dropped"] == 0 || got["packets"] != got["dropped"] || got["accepted"] != 0 {
		t.Errorf("counters are %v, want drops only", got)
	}
	if index := linkOf(t, r.x.endpoints["server"].Namespace, "eth0").Index; got["bytes"] != got["packets"]*float64(index) {
		t.Errorf("counters are %v, want bytes = packets x ifindex %d", got, index)
	}
	r.must("server", bundle.Expect{What: "drops", Read: "after", Since: "before", Key: "dropped", Op: bundle.AtLeast, Value: 1})
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	r.must("client", try(bundle.Allow))
	if after := r.state(r.x.endpoints["server"].Namespace); after != before {
		t.Errorf("undo left\n%s\nit was\n%s", after, before)
	}
}

func TestAttachKeepsOthersClsact(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"})
	r.output("", "tc", "qdisc", "add", "dev", "a0", "clsact")
	r.file("counting", counting(t))
	r.x.undo.mark()
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count", "tc_lookup"}},
		bundle.AttachBPF{Handle: "o", Program: "tc_count", Link: "a0", Hook: bundle.HookTCIngress},
		bundle.AttachBPF{Handle: "o", Program: "tc_lookup", Link: "a0", Hook: bundle.HookTCIngress})
	if got := r.output("", "tc", "filter", "show", "dev", "a0", "ingress"); strings.Index(got, "tc_count") > strings.Index(got, "tc_lookup") || !strings.Contains(got, "tc_lookup") {
		t.Errorf("filters are not in the order of their attachment:\n%s", got)
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if got := r.output("", "tc", "qdisc", "show", "dev", "a0"); !strings.Contains(got, "clsact") {
		t.Errorf("undo removed a qdisc that was there before: %s", got)
	}
	if got := r.output("", "tc", "filter", "show", "dev", "a0", "ingress"); got != "" {
		t.Errorf("undo left filters: %s", got)
	}
}

func TestFillMap(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", MAC: "02:00:00:00:00:07", Peer: "a1"})
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_lookup"}, MaxEntries: map[string]uint32{"policy": 10000}})
	var hash, tree strings.Builder
	for i := range 9999 {
		fmt.Fprintf(&hash, "%08x 0100000000000000\n", i)
	}
	hash.WriteString("ffffffff {ifindex:a0}aabb0000\n")
	for i := range 60 {
		fmt.Fprintf(&tree, "20000000c613%02x07 0200000000000000\n", i)
	}
	tree.WriteString("20000000c6130063 {mac:a0}0000\n")
	r.file("hash", hash.String())
	r.file("tree", tree.String())
	res := r.must("", bundle.FillMap{Handle: "o", Map: "policy", File: "hash"})
	if res.Values["entries"] != 10000 || res.Values["load_seconds"] <= 0 {
		t.Errorf("values are %v", res.Values)
	}
	r.must("", bundle.FillMap{Handle: "o", Map: "tree", File: "tree"})
	got := r.must("", bundle.Read{Name: "x", From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats", Maps: []string{"policy", "tree"}}}}).Values
	if got["entries.policy"] != 10000 || got["entries.tree"] != 61 {
		t.Errorf("entries are %v, want 10000 and 61", got)
	}
	checkPlaceholders(t, r)
	r.file("short", "00 0100000000000000\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "short"}, "line 1: key", "want 4")
	r.file("odd", "000000000 0100000000000000\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "odd"}, "line 1: key", "odd length")
	r.file("long", "00000000 010000000000000000\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "long"}, "line 1: value: 9 bytes, want 8")
	r.file("lost", "00000000 {ifindex:b7}00000000\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "lost"}, "line 1: value", "b7")
	r.file("full", strings.ReplaceAll(hash.String(), "01000", "02000")+"fffffffe 0100000000000000\nfffffffd 0100000000000000\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "full"}, "fill map policy")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "nothing", File: "short"}, `no map "nothing"`)
}

// held reads the values of some keys of the hash map "policy", 0 for none.
func held(t *testing.T, r *rig, keys ...uint32) []uint64 {
	t.Helper()
	out := make([]uint64, len(keys))
	for i, k := range keys {
		err := r.x.objects["o"].Maps["policy"].Lookup(k, &out[i])
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
	}
	return out
}

func TestFillMapChanges(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_lookup"}, MaxEntries: map[string]uint32{"policy": 10000, "tree": 10000}})
	r.file("three", "00000001 0100000000000000\n00000002 0200000000000000\n00000003 0300000000000000\n")
	r.must("", bundle.FillMap{Handle: "o", Map: "policy", File: "three"})
	r.file("change", "00000002 0900000000000000\n")
	res := r.must("", bundle.FillMap{Handle: "o", Map: "policy", File: "change", Metric: bundle.MetricUpdate})
	if _, other := res.Values[bundle.MetricLoad]; other || res.Values[bundle.MetricUpdate] <= 0 || res.Values["entries"] != 1 {
		t.Errorf("values of an update are %v", res.Values)
	}
	// Keys are bytes as they lie in memory.
	keys := []uint32{1 << 24, 2 << 24, 3 << 24}
	if got := held(t, r, keys...); !slices.Equal(got, []uint64{1, 9, 3}) {
		t.Errorf("the map holds %v, want 1 9 3", got)
	}
	r.file("gone", "00000001\n00000003 0300000000000000\n")
	res = r.must("", bundle.FillMap{Handle: "o", Map: "policy", File: "gone", Delete: true})
	if got := held(t, r, keys...); !slices.Equal(got, []uint64{0, 9, 0}) || res.Values["entries"] != 2 || res.Values[bundle.MetricLoad] <= 0 {
		t.Errorf("the map holds %v, want 0 9 0; values are %v", got, res.Values)
	}
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "gone", Delete: true}, "delete from map policy", "key does not exist")
	r.file("short", "0001\n")
	r.fails("", bundle.FaultRig, bundle.FillMap{Handle: "o", Map: "policy", File: "short", Delete: true}, "line 1: key", "want 4")
	testTreeChanges(t, r)
}

// testTreeChanges fills an LPM trie with more than a batch and empties it.
func testTreeChanges(t *testing.T, r *rig) {
	t.Helper()
	var prefixes strings.Builder
	for i := range 9000 {
		fmt.Fprintf(&prefixes, "18000000%06x00 0100000000000000\n", i)
	}
	r.file("prefixes", prefixes.String())
	read := bundle.Read{Name: "x", From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats", Maps: []string{"tree"}}}}
	empty := r.must("", read).Values["memory"]
	full := r.must("", bundle.FillMap{Handle: "o", Map: "tree", File: "prefixes"}).Values["memory_bytes"]
	if got := r.must("", read).Values; got["entries.tree"] != 9000 || got["memory"] != full {
		t.Errorf("values are %v, want 9000 entries and %.0f bytes", got, full)
	}
	// 16 bytes of prefix, address and value each, and what the tree adds. Before 6.4
	// the kernel estimates a map's memory when it makes it.
	if since(6, 4) && full < empty+9000*16 {
		t.Errorf("9000 prefixes took the object from %.0f to %.0f bytes", empty, full)
	}
	r.must("", bundle.FillMap{Handle: "o", Map: "tree", File: "prefixes", Delete: true})
	if got := r.must("", read).Values; got["entries.tree"] != 0 {
		t.Errorf("values are %v, want no entries", got)
	}
}

func TestLoadBPFTellsMemory(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	load := func(handle string, entries uint32) float64 {
		return r.must("", bundle.LoadBPF{Handle: handle, Object: "counting", Programs: []string{"tc_lookup"}, MaxEntries: map[string]uint32{"policy": entries}}).Values["memory_bytes"]
	}
	// A hash map has all of its entries from the start: key, value and links.
	small, large := load("small", 16), load("large", 10016)
	if small <= 0 || large-small < 10000*(4+8) || large-small > 10000*200 {
		t.Errorf("%.0f bytes with 16 entries, %.0f with 10016", small, large)
	}
}

// TestLoadBPFMakesTables: maps of policies are made apart, and with all of their
// entries where the step asks for that.
func TestLoadBPFMakesTables(t *testing.T) {
	r := newRig(t)
	r.file("datapath", string(bpf.DatapathObject()))
	const size = 50000
	load := func(handle string, a bundle.LoadBPF) (values map[string]float64, m *ebpf.Map) {
		a.Handle, a.Object, a.Programs = handle, "datapath", []string{bpf.ProgToEndpoint}
		values = r.must("", a).Values
		return values, r.x.objects[handle].Maps[bpf.MapPolicy]
	}
	plain, _ := load("plain", bundle.LoadBPF{})
	if _, ok := plain[bundle.MetricLoad]; ok {
		t.Errorf("no map was made apart, and the values are %v", plain)
	}
	sized, tables := map[string]uint32{bpf.MapPolicy: size}, []string{bpf.MapPolicy}
	empty, m := load("empty", bundle.LoadBPF{MaxEntries: sized, Tables: tables})
	if empty[bundle.MetricLoad] <= 0 || m.MaxEntries() != size || m.Flags()&unix.BPF_F_NO_PREALLOC == 0 {
		t.Errorf("values are %v of a map of %d entries with flags %x", empty, m.MaxEntries(), m.Flags())
	}
	full, m := load("full", bundle.LoadBPF{MaxEntries: sized, Tables: tables, Prealloc: true})
	if full[bundle.MetricLoad] <= 0 || m.MaxEntries() != size || m.Flags()&unix.BPF_F_NO_PREALLOC != 0 {
		t.Errorf("values are %v of a map of %d entries with flags %x", full, m.MaxEntries(), m.Flags())
	}
	entry := float64(m.KeySize() + m.ValueSize())
	if since(6, 4) && full["memory_bytes"]-empty["memory_bytes"] < size*entry {
		t.Errorf("%.0f bytes of memory with all entries, %.0f with none", full["memory_bytes"], empty["memory_bytes"])
	}
}

func TestTCXRunsInOrderOfAttachment(t *testing.T) {
	if !since(6, 6) {
		testNoTCX(t, counting(t), bundle.HookTCXIngress, "tc_count")
		return
	}
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count", "tc_lookup"}})
	r.x.undo.mark()
	r.must("", bundle.AttachBPF{Handle: "o", Program: "tc_count", Link: "a0", Hook: bundle.HookTCXIngress},
		bundle.AttachBPF{Handle: "o", Program: "tc_lookup", Link: "a0", Hook: bundle.HookTCXIngress})
	var want []int
	for _, name := range []string{"tc_count", "tc_lookup"} {
		id, err := programID(r.x.objects["o"].Programs[name])
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	if got := r.tcx("a0"); !slices.Equal(got, want) {
		t.Errorf("programs at tcx are %v, want %v", got, want)
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if got := r.tcx("a0"); len(got) != 0 {
		t.Errorf("undo left programs %v at tcx", got)
	}
}

// tcx lists the programs at the tcx ingress of a link of the node.
func (r *rig) tcx(name string) []int {
	r.t.Helper()
	var ids []int
	index := linkOf(r.t, r.x.node.Namespace, name).Index
	err := r.x.node.Do(func() (err error) {
		ids, err = attachedPrograms(index, ebpf.AttachTCXIngress)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// TestHooksOfNewerKernels stands in for a kernel that lacks them.
func TestHooksOfNewerKernels(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}})
	for name, want := range map[string]string{
		bundle.HookTCXIngress: "attach to a0: tcx needs Linux 6.6", bundle.HookTCXEgress: "attach to a0: tcx needs Linux 6.6",
		bundle.HookNetkitPrimary: "attach to a0: netkit needs Linux 6.7", bundle.HookNetkitPeer: "attach to a0: netkit needs Linux 6.7",
	} {
		hook := linkHooks()[name]
		hook.attach = func(*ebpf.Program, int, ebpf.AttachType) (link.Link, error) { return nil, ebpf.ErrNotSupported }
		err := r.x.node.WithNetlink(func(h *netlink.Handle) error {
			c := &call{x: r.x, at: r.x.node, nl: h}
			l, err := c.link("a0")
			if err != nil {
				return err
			}
			return c.attachLink(r.x.objects["o"].Programs["tc_count"], l, hook)
		})
		if fault.Of(err) != bundle.FaultUnsupported || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an unsupported fault with %q", name, err, want)
		}
	}
}

func checkPlaceholders(t *testing.T, r *rig) {
	t.Helper()
	index := uint32(linkOf(t, r.x.node.Namespace, "a0").Index)
	var value uint64
	if err := r.x.objects["o"].Maps["policy"].Lookup(^uint32(0), &value); err != nil || value != 0xbbaa<<32|uint64(index) {
		t.Errorf("value with ifindex is %#x (%v), ifindex %d", value, err, index)
	}
	key := []byte{32, 0, 0, 0, 0xc6, 0x13, 0, 0x63}
	var mac [8]byte
	if err := r.x.objects["o"].Maps["tree"].Lookup(key, &mac); err != nil || mac != [8]byte{2, 0, 0, 0, 0, 7} {
		t.Errorf("value with address is %v (%v)", mac, err)
	}
}

func TestLoadBPFErrors(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.file("text", "not an object")
	load := func(change func(*bundle.LoadBPF)) bundle.LoadBPF {
		a := bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}}
		change(&a)
		return a
	}
	for text, a := range map[string]bundle.LoadBPF{
		"parse text":            load(func(a *bundle.LoadBPF) { a.Object = "text" }),
		`no program "warp"`:     load(func(a *bundle.LoadBPF) { a.Programs = []string{"warp"} }),
		`no variable "warp"`:    load(func(a *bundle.LoadBPF) { a.Vars = map[string]string{"warp": "00"} }),
		"has 4 bytes, got 1":    load(func(a *bundle.LoadBPF) { a.Vars = map[string]string{"verdict": "00"} }),
		`no map "warp"`:         load(func(a *bundle.LoadBPF) { a.MaxEntries = map[string]uint32{"warp": 1} }),
		`no map "weft"`:         load(func(a *bundle.LoadBPF) { a.Tables = []string{"weft"} }),
		"make map policy":       load(func(a *bundle.LoadBPF) { a.Tables, a.MaxEntries = []string{"policy"}, map[string]uint32{"policy": 0} }),
		"find link eth9":        load(func(a *bundle.LoadBPF) { a.LinkVars = map[string]string{"link_index": "eth9"} }),
		`handle "" is taken`:    load(func(a *bundle.LoadBPF) { a.Handle = "" }),
		`variable "link_index"`: load(func(a *bundle.LoadBPF) { a.Vars = map[string]string{"link_index": "xx"} }),
	} {
		r.fails("", bundle.FaultRig, a, text)
	}
	// A program that the verifier refuses is refused every time, and the user may
	// have written it: no fault of the machine's.
	r.fails("", bundle.FaultSubject, load(func(a *bundle.LoadBPF) { a.Programs = []string{"tc_broken"} }), "processed 2 insns")
}

func TestNativeXDPWhereThereIsNone(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"xdp_count"}})
	r.fails("", bundle.FaultUnsupported, bundle.AttachBPF{Handle: "o", Program: "xdp_count", Link: "lo", Hook: bundle.HookXDPNative},
		"native mode", "Underlying driver does not support XDP in native mode")
	r.fails("", bundle.FaultRig, bundle.AttachBPF{Handle: "o", Program: "tc_count", Link: "lo", Hook: bundle.HookXDPNative}, "no loaded program")
	r.fails("", bundle.FaultRig, bundle.AttachBPF{Handle: "o", Program: "xdp_count", Link: "lo", Hook: "nowhere"}, "unknown hook")
}
