package step

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/sysfs"
)

// machineJIT stands in for a machine whose JIT compiler is in some state; the
// real one's is not the test's to change.
func machineJIT(enable, harden string) func() (map[string]string, error) {
	return func() (map[string]string, error) {
		return map[string]string{"bpf_jit_enable": enable, "bpf_jit_harden": harden}, nil
	}
}

func TestGuardJIT(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}})
	guard := bundle.Guard{JIT: true, Handle: "o"}
	r.x.jit = machineJIT("1", "0")
	if got := r.must("", guard).Values; got["jit_enable"] != 1 || got["jit_harden"] != 0 {
		t.Errorf("values are %v", got)
	}
	r.x.jit = machineJIT("1", "2")
	r.fails("", bundle.FaultVoid, guard, `net.core.bpf_jit_harden is "2", want 0`)
	r.x.jit = machineJIT("0", "1")
	r.fails("", bundle.FaultVoid, guard, `net.core.bpf_jit_enable is "0", want 1; net.core.bpf_jit_harden is "1", want 0`)
	r.x.jit = machineJIT("1", "") // where it cannot be read, nothing is known
	r.fails("", bundle.FaultVoid, guard, `net.core.bpf_jit_harden is "", want 0`)
	r.x.jit = func() (map[string]string, error) { return nil, os.ErrPermission }
	r.fails("", bundle.FaultRig, guard, "permission denied")
	r.fails("", bundle.FaultRig, bundle.Guard{JIT: true, Handle: "p"}, `no BPF object "p"`)
}

// TestGuardLearnsJIT: a program tells what the machine's sysctls say, also where they
// are not shown. On a machine of its own (TestVMKernel) it sets them.
func TestGuardLearnsJIT(t *testing.T) {
	here, err := netns.Current("here")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New(here, "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const harden = "/proc/sys/net/core/bpf_jit_harden"
	now := sysfs.ReadLine(harden)
	if now == "" {
		t.Fatal("these tests do not run in the machine's first network namespace")
	}
	levels := []string{now}
	if os.Getenv(machineTest) != "" {
		levels = []string{"0", "1", "2", now}
	}
	for _, level := range levels {
		if level != sysfs.ReadLine(harden) {
			if err := sysfs.WriteSysctl(harden, level); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string]string{"bpf_jit_enable": sysfs.ReadLine("/proc/sys/net/core/bpf_jit_enable"), "bpf_jit_harden": level}
		if level == "1" { // not for programs of ours
			want["bpf_jit_harden"] = "0"
		}
		err := ns.Do(func() error {
			got := map[string]string{}
			sysfs.SysctlFacts(got, []string{"net.core.bpf_jit_enable", "net.core.bpf_jit_harden"})
			if len(got) > 0 {
				t.Errorf("a namespace of its own shows %v: this test shows nothing", got)
			}
			if err := fillJIT(got); err != nil {
				return err
			}
			if !maps.Equal(got, want) {
				t.Errorf("learnt %v, want %v", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// What is known is not asked for again.
	known := map[string]string{"bpf_jit_enable": "0", "bpf_jit_harden": "2"}
	if err := fillJIT(known); err != nil || known["bpf_jit_enable"] != "0" || known["bpf_jit_harden"] != "2" {
		t.Errorf("error %v, known became %v", err, known)
	}
}

// TestGuardXDP changes the program of a link behind the helper's back.
func TestGuardXDP(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	load := func(handle string) bundle.LoadBPF {
		return bundle.LoadBPF{Handle: handle, Object: "counting", Programs: []string{"xdp_count"}}
	}
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, load("ours"), load("other"))
	set := func(handle string, mode link.XDPAttachFlags) {
		t.Helper()
		fd := -1
		if handle != "" {
			fd = r.x.objects[handle].Programs["xdp_count"].FD()
		}
		index := linkOf(t, r.x.node.Namespace, "a0").Index
		if err := r.x.node.Do(func() error { return setXDP(index, fd, uint32(mode)) }); err != nil {
			t.Fatal(err)
		}
	}
	guard := bundle.Guard{Link: "a0", XDP: bundle.XDPNative, Handle: "ours", Program: "xdp_count"}
	none := bundle.Guard{Link: "a0", XDP: bundle.XDPNone}
	r.must("", none)
	r.fails("", bundle.FaultVoid, guard, "XDP on a0 is none, want native", "runs program 0")
	set("ours", link.XDPDriverMode)
	if got := r.must("", guard).Values["xdp_program"]; got == 0 {
		t.Error("no program is told")
	}
	r.fails("", bundle.FaultVoid, none, "XDP on a0 is native, want none")
	set("", link.XDPDriverMode)
	set("ours", link.XDPGenericMode)
	r.fails("", bundle.FaultVoid, guard, "XDP on a0 is generic, want native")
	generic := guard
	generic.XDP = bundle.XDPGeneric
	r.must("", generic)
	set("other", link.XDPGenericMode)
	r.fails("", bundle.FaultVoid, generic, "runs program", "(xdp_count)")
	set("", link.XDPGenericMode)
	r.fails("", bundle.FaultRig, bundle.Guard{Link: "a0", XDP: "warp"}, `"warp"`)
	r.fails("", bundle.FaultRig, bundle.Guard{Link: "a9", XDP: bundle.XDPNone}, "find link a9")
	r.fails("", bundle.FaultRig, bundle.Guard{Link: "a0", XDP: bundle.XDPNone, Handle: "ours", Program: "warp"}, `no loaded program "warp"`)
}

func TestGuardOffloads(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"})
	guard := bundle.Guard{Link: "a0", Offloads: map[string]bool{"tso": true, "gso": true, "gro": false, "tx-checksumming": true}}
	// A veth of 5.10 merges what it receives without being asked.
	if err := r.x.node.Do(func() error { return sysfs.ChangeFeatures("a0", map[string]bool{"rx-gro": false}) }); err != nil {
		t.Fatal(err)
	}
	r.must("", guard)
	err := r.x.node.Do(func() error {
		return sysfs.ChangeFeatures("a0", map[string]bool{"tx-tcp-segmentation": false, "tx-tcp6-segmentation": false, "tx-tcp-ecn-segmentation": false, "tx-tcp-mangleid-segmentation": false, "rx-gro": true})
	})
	if err != nil {
		t.Fatal(err)
	}
	r.fails("", bundle.FaultVoid, guard, "offload gro of a0 is true, want false; offload tso of a0 is false, want true")
	r.fails("", bundle.FaultUnsupported, bundle.Guard{Link: "a0", Offloads: map[string]bool{"warp": true}}, `no offload "warp"`)
}

// TestGuardConntrack takes a share so small that one connection exceeds it: the
// table's size is the whole machine's.
func TestGuardConntrack(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.output("server", "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
	r.must("server", bundle.Listen{Handle: "l", Port: 5001}, bundle.Guard{Conntrack: 1e-12})
	r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowOpen, Link: "eth0", From: client4, To: server4, Port: 5001, Timeout: heard})
	got := r.must("server", bundle.Guard{Conntrack: 0.9}).Values
	if got["conntrack_count"] != 1 || got["conntrack_max"] < 1 {
		t.Errorf("values are %v, want one connection", got)
	}
	r.fails("server", bundle.FaultVoid, bundle.Guard{Conntrack: 1e-12}, "the connection tracker holds 1 of ", "want at most 1e-12 of it")
}

func TestGuardMaps(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_lookup"}, MaxEntries: map[string]uint32{"policy": 10}})
	fill := func(from, to int) {
		t.Helper()
		var lines strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&lines, "%08x 0100000000000000\n", i)
		}
		r.file(fmt.Sprint("fill", to), lines.String())
		r.must("", bundle.FillMap{Handle: "o", Map: "policy", File: fmt.Sprint("fill", to)})
	}
	guard := bundle.Guard{Handle: "o", Maps: map[string]float64{"policy": 0.5}}
	fill(0, 5)
	if got := r.must("", guard).Values; got["entries.policy"] != 5 || got["max_entries.policy"] != 10 {
		t.Errorf("values are %v", got)
	}
	fill(5, 6)
	r.fails("", bundle.FaultVoid, guard, "map policy holds 6 of 10 entries, want at most 0.5 of it")
	r.fails("", bundle.FaultRig, bundle.Guard{Handle: "o", Maps: map[string]float64{"warp": 1}}, `no map "warp"`)
}

// TestGuardTellsAll: one fault names everything that is wrong.
func TestGuardTellsAll(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"}, bundle.Veth{Link: "c0", Peer: "eth0", PeerIn: "client"})
	r.x.jit = machineJIT("0", "0")
	r.fails("", bundle.FaultVoid, bundle.Guard{Link: "peer:client/eth0", XDP: bundle.XDPNative, JIT: true, Offloads: map[string]bool{"gso": false}},
		"bpf_jit_enable", "XDP on peer:client/eth0 is none", "offload gso of peer:client/eth0 is true")
}

// TestGuardKnowsModes covers those that no device here has.
func TestGuardKnowsModes(t *testing.T) {
	for mode, want := range map[uint32]string{1: "native", 2: "generic", 3: "in hardware", 4: "in mode 4"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Xdp = &netlink.LinkXdp{Attached: true, AttachMode: mode, ProgId: 7}
		if got, id := xdpOf(&netlink.Dummy{LinkAttrs: attrs}); got != want || id != 7 {
			t.Errorf("mode %d is %q with program %d, want %q", mode, got, id, want)
		}
	}
}

// TestGuardReadsTheMachine: also a helper in namespaces of its own, where the
// files are not, sees the machine's state as it is now.
func TestGuardReadsTheMachine(t *testing.T) {
	want := map[string]string{}
	sysfs.SysctlFacts(want, []string{"net.core.bpf_jit_enable", "net.core.bpf_jit_harden"})
	if want["bpf_jit_enable"] == "" {
		t.Fatal("these tests do not run in the machine's first network namespace")
	}
	out, code := execBundle(t, bundle.Bundle{Schema: bundle.Schema, Steps: []bundle.Step{{Node: "n", Phase: bundle.Collect, Do: bundle.Guard{JIT: true}}}})
	var report BundleReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ok := want["bpf_jit_enable"] == "1" && want["bpf_jit_harden"] == "0"
	if ok != (code == 0) || len(report.Results) != 1 {
		t.Fatalf("exit code %d, report %+v on a machine with %v", code, report, want)
	}
	for fact, value := range map[string]string{"bpf_jit_enable": "jit_enable", "bpf_jit_harden": "jit_harden"} {
		if got := fmt.Sprint(report.Results[0].Values[value]); got != want[fact] {
			t.Errorf("%s is %s, want %s", value, got, want[fact])
		}
	}
}

// execBundle executes a bundle without files in a helper of its own, as `guest exec` does.
func execBundle(t *testing.T, b bundle.Bundle) (out []byte, status int) {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(guesttest.Self(t), "exec", path)
	out, _ = cmd.Output()
	return out, cmd.ProcessState.ExitCode()
}
