package step

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// mustHaveNetkit tells that this kernel has netkit, so that nothing may be
// called unsupported.
const mustHaveNetkit = "HOOKBED_TEST_NETKIT"

// hasNetkit asks the kernel itself, without the helper.
func hasNetkit(t *testing.T, r *rig) bool {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe0"
	err := r.x.node.WithNetlink(func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Netkit{LinkAttrs: attrs}); err != nil {
			return err
		}
		return h.LinkDel(&netlink.Netkit{LinkAttrs: attrs})
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	if os.Getenv(mustHaveNetkit) != "" && err != nil {
		t.Fatalf("this kernel should have netkit: %v", err)
	}
	return err == nil
}

// TestNeedNetkit: what needs netkit is unsupported where there is none, and leaves nothing where
// there is.
func TestNeedNetkit(t *testing.T) {
	r := newRig(t)
	if !hasNetkit(t, r) {
		r.fails("", bundle.FaultUnsupported, bundle.NeedNetkit{}, "netkit needs Linux 6.7")
		return
	}
	before := r.output("", "ip", "-o", "link")
	r.must("", bundle.NeedNetkit{})
	if after := r.output("", "ip", "-o", "link"); after != before {
		t.Errorf("the links are\n%s\nand were\n%s", after, before)
	}
}

// TestNetkit shows that the pair carries traffic and that a program at either
// hook decides, or, on a kernel without, that it says what is missing. A kernel
// that has netkit runs it as part of the tests with virtual machines.
func TestNetkit(t *testing.T) {
	r := newRig(t)
	object := counting(t)
	r.file("counting", object)
	pair := bundle.Netkit{Link: "nk0", MAC: "02:00:00:00:00:01", Peer: "eth0", PeerIn: "client", PeerMAC: "02:00:00:00:00:02", MTU: 1400}
	if !hasNetkit(t, r) {
		r.must("", bundle.Netns{Name: "client"}, bundle.Veth{Link: "a0", Peer: "a1"}, bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}})
		r.fails("", bundle.FaultUnsupported, pair, "make netkit nk0 to eth0: netkit needs Linux 6.7")
		for _, hook := range []string{bundle.HookNetkitPrimary, bundle.HookNetkitPeer} {
			r.fails("", bundle.FaultUnsupported, bundle.AttachBPF{Handle: "o", Program: "tc_count", Link: "a0", Hook: hook}, "attach to a0: netkit needs Linux 6.7")
		}
		return
	}
	r.must("", bundle.Netns{Name: "client"}, pair, bundle.Addr{Link: "nk0", CIDR: "198.18.1.1/24"}, bundle.Listen{Handle: "l", Port: 5001})
	r.must("client", bundle.Addr{Link: "eth0", CIDR: "198.18.1.2/24"})
	near, far := linkOf(t, r.x.node.Namespace, "nk0"), linkOf(t, r.x.endpoints["client"].Namespace, "eth0")
	if near.HardwareAddr.String() != pair.MAC || far.HardwareAddr.String() != pair.PeerMAC || near.MTU != 1400 || far.MTU != 1400 {
		t.Errorf("ends are %s, MTU %d, and %s, MTU %d", near.HardwareAddr, near.MTU, far.HardwareAddr, far.MTU)
	}
	r.must("", bundle.SetLink{Link: "peer:client/eth0", MTU: 1300})
	if got := linkOf(t, r.x.node.Namespace, "nk0").MTU; got != 1300 {
		t.Errorf("MTU of the client's other end is %d, want 1300", got)
	}
	for _, hook := range []string{bundle.HookNetkitPrimary, bundle.HookNetkitPeer} {
		testNetkitHook(t, r, hook)
	}
}

func testNetkitHook(t *testing.T, r *rig, hook string) {
	t.Helper()
	try := func(want string) bundle.Probes {
		return bundle.Probes{Link: "eth0", Timeout: 0.2, Tries: []bundle.Probe{{What: hook, From: "198.18.1.2", To: "198.18.1.1", Port: 5001, Want: want}}}
	}
	r.must("client", try(bundle.Allow))
	mark := r.x.undo.mark()
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}, Vars: map[string]string{"verdict": "01000000", "drop": "01"}},
		bundle.AttachBPF{Handle: "o", Program: "tc_count", Link: "nk0", Hook: hook})
	r.must("client", try(bundle.Deny))
	got := r.awaitCounter("", bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats"}}, func(got map[string]float64) bool { return got["dropped"] > 0 })
	if got["dropped"] == 0 {
		t.Errorf("%s: counters are %v, want drops", hook, got)
	}
	if err := r.x.undoTo(mark); err != nil {
		t.Fatal(err)
	}
	r.must("client", try(bundle.Allow))
}
