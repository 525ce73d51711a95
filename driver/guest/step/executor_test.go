package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// rig is an executor whose node is a network namespace made for the test.
type rig struct {
	t     *testing.T
	x     *executor
	files map[string]bundle.File
	raw   map[string]string
	first string // the node's state before any step
}

func newRig(t *testing.T) *rig {
	t.Helper()
	outside, err := netns.Current("outside")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	node, err := netns.New(outside, "")
	if err != nil {
		t.Fatal(err)
	}
	x, err := newExecutor()
	if err != nil {
		t.Fatal(err)
	}
	x.node.Close()
	x.node.Namespace = node
	x.blobs = t.TempDir()
	r := &rig{t: t, x: x, files: map[string]bundle.File{}}
	t.Cleanup(r.close)
	r.first = r.state(node)
	return r
}

// close undoes everything and checks that the node is as it was.
func (r *rig) close() {
	err := r.x.undoTo(0)
	// The function tracer of an emulated machine takes longer to end than an undo may on
	// a busy computer; what is left is undone by the next one.
	for range 15 {
		if !errors.Is(err, context.DeadlineExceeded) {
			break
		}
		err = r.x.undoTo(0)
	}
	if err != nil {
		r.t.Errorf("undo: %v", err)
	}
	if last := r.state(r.x.node.Namespace); last != r.first {
		r.t.Errorf("undo left the node as\n%s\nit was\n%s", last, r.first)
	}
	for what, n := range map[string]int{"endpoints": len(r.x.endpoints), "objects": len(r.x.objects), "servers": len(r.x.servers), "flows": len(r.x.flows), "snapshots": len(r.x.snapshots)} {
		if n != 0 {
			r.t.Errorf("undo left %d %s", n, what)
		}
	}
	r.x.node.Close()
}

// file adds a file to the bundle.
func (r *rig) file(name, data string) {
	f := bundle.NewFile([]byte(data))
	r.files[name] = f
	if err := os.WriteFile(filepath.Join(r.x.blobs, f.SHA256), f.Data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// steps runs actions in one namespace of the node.
func (r *rig) steps(in string, actions ...bundle.Action) bundle.Reply {
	s := bundle.Steps{Name: "test", Files: r.files}
	for _, a := range actions {
		s.Steps = append(s.Steps, bundle.Step{Node: "node1", Phase: bundle.Apply, In: in, Do: a})
	}
	return r.x.steps(context.Background(), s)
}

// must runs actions that must succeed and returns the result of the last.
func (r *rig) must(in string, actions ...bundle.Action) bundle.StepResult {
	r.t.Helper()
	reply := r.steps(in, actions...)
	if reply.Error != "" {
		r.t.Fatalf("%s fault: %s", reply.Fault, reply.Error)
	}
	r.raw = reply.Raw
	return reply.Results[len(reply.Results)-1]
}

// awaitCounter reads a counter until it is as it should be or a busy machine had time
// enough to take in what was sent.
func (r *rig) awaitCounter(in string, from bundle.Counter, ok func(map[string]float64) bool) map[string]float64 {
	r.t.Helper()
	for deadline := time.Now().Add(guesttest.Patience); ; time.Sleep(10 * time.Millisecond) {
		got := r.must(in, bundle.Read{Name: "await", From: from}).Values
		if ok(got) || time.Now().After(deadline) {
			return got
		}
	}
}

// retransmitted is how many segments an endpoint's TCP has sent once more.
func (r *rig) retransmitted(in string) float64 {
	r.t.Helper()
	return float64(proc.ParseSNMP(r.output(in, "cat", "/proc/net/snmp"), "Tcp")["RetransSegs"])
}

// fails runs an action that must fail with a fault and a message containing
// each of the given texts.
func (r *rig) fails(in, fault string, a bundle.Action, texts ...string) {
	r.t.Helper()
	reply := r.steps(in, a)
	if reply.Fault != fault || reply.Step != 1 {
		r.t.Errorf("%s %+v: fault %q at step %d (%s), want fault %q at step 1", a.Kind(), a, reply.Fault, reply.Step, reply.Error, fault)
	}
	for _, text := range texts {
		if !strings.Contains(reply.Error, text) {
			r.t.Errorf("%s: error %q does not contain %q", a.Kind(), reply.Error, text)
		}
	}
}

// pair makes endpoints client and server on a bridge of the node.
func (r *rig) pair() {
	r.t.Helper()
	r.must("", bundle.Bridge{Link: "br0"},
		bundle.Netns{Name: "client"}, bundle.Veth{Link: "c0", Peer: "eth0", PeerIn: "client"}, bundle.SetLink{Link: "c0", Master: "br0"},
		bundle.Netns{Name: "server"}, bundle.Veth{Link: "s0", Peer: "eth0", PeerIn: "server"}, bundle.SetLink{Link: "s0", Master: "br0"})
	r.must("client", bundle.Addr{Link: "eth0", CIDR: "198.18.1.2/24"})
	r.must("server", bundle.Addr{Link: "eth0", CIDR: "198.18.1.3/24"}, bundle.Route{Dst: "198.19.0.0/16", Link: "eth0"})
}

// pair6 gives the endpoints of pair IPv6 addresses too.
func (r *rig) pair6() {
	r.t.Helper()
	r.pair()
	r.must("client", bundle.Addr{Link: "eth0", CIDR: "2001:2:0:1::2/64"})
	r.must("server", bundle.Addr{Link: "eth0", CIDR: "2001:2:0:1::3/64"}, bundle.Route{Dst: "2001:2:0:2::/64", Link: "eth0"})
}

// state describes everything the helper's steps can change in a namespace.
func (r *rig) state(ns *netns.Namespace) string {
	r.t.Helper()
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	err := ns.WithNetlink(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			add("link %s mtu %d up %t master %d %s xdp %+v", a.Name, a.MTU, a.Flags&net.FlagUp != 0, a.MasterIndex, a.HardwareAddr, a.Xdp)
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				if ids, err := attachedPrograms(a.Index, at); err != nil || len(ids) > 0 {
					add("programs of %v on %s: %v %v", at, a.Name, ids, err)
				}
			}
			for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
				filters, _ := h.FilterList(l, parent)
				add("filters on %s: %d", a.Name, len(filters))
			}
		}
		qdiscs, err := h.QdiscList(nil)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			add("qdisc %s", q)
		}
		addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.IP.To4() != nil || !a.IP.IsLinkLocalUnicast() { // the kernel's own come and go
				add("address %s", a)
			}
		}
		routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, rt := range routes {
			if rt.Family == netlink.FAMILY_V4 || rt.Protocol != unix.RTPROT_KERNEL {
				add("route %s", rt)
			}
		}
		neighs, err := h.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, n := range neighs {
			if n.State == netlink.NUD_PERMANENT {
				add("neighbour %s", &n)
			}
		}
		forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		add("forward %s", forward)
		return err
	})
	if err != nil {
		r.t.Fatalf("read state: %v", err)
	}
	return strings.Join(out, "\n")
}

// output runs a tool in a namespace and returns what it prints.
func (r *rig) output(in string, argv ...string) string {
	r.t.Helper()
	at, err := r.x.endpointOf(in)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []byte
	err = at.Do(func() error {
		var err error
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		r.t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

func TestEveryKindHasAHandler(t *testing.T) {
	if got := slices.Sorted(maps.Keys(handlers())); !slices.Equal(got, bundle.Kinds()) {
		t.Errorf("handlers for %q, want %q", got, bundle.Kinds())
	}
}

func TestUnknownEndpoint(t *testing.T) {
	newRig(t).fails("nobody", bundle.FaultRig, bundle.Addr{Link: "lo", CIDR: "198.18.1.1/32"}, `no endpoint "nobody"`)
}

func TestUndoContinuesAfterErrors(t *testing.T) {
	r := newRig(t)
	r.x.undo.mark()
	ran := ""
	entry := func(name string, err error) {
		r.x.undo.push(undoEntry{what: name, at: r.x.node.Namespace, act: func(undoing) error {
			ran += name
			return err
		}})
	}
	entry("a", nil)
	entry("b", fmt.Errorf("stuck"))
	entry("c", os.ErrNotExist)
	entry("d", nil)
	err := r.x.undoTo(1)
	if ran != "dcba" {
		t.Errorf("undone in order %q, want dcba", ran)
	}
	if err == nil || !strings.Contains(err.Error(), "undo: b: stuck") || strings.Contains(err.Error(), "undo: c") {
		t.Errorf("undo says %v, want only b's error", err)
	}
}

func TestUndoPanicIsAnError(t *testing.T) {
	r := newRig(t)
	r.x.undo.push(undoEntry{what: "bad", at: r.x.node.Namespace, act: func(undoing) error { panic("oh") }})
	if err := r.x.undoTo(0); err == nil || !strings.Contains(err.Error(), "panic: oh") {
		t.Errorf("undo says %v, want the panic", err)
	}
}

func TestMarks(t *testing.T) {
	r := newRig(t)
	if n := r.x.undo.mark(); n != 1 {
		t.Fatalf("first mark is %d, want 1", n)
	}
	r.must("", bundle.Bridge{Link: "br0"})
	if n := r.x.undo.mark(); n != 2 {
		t.Fatalf("second mark is %d, want 2", n)
	}
	r.must("", bundle.Bridge{Link: "br1"})
	for range 2 { // the second time there is nothing to do
		if err := r.x.undoTo(2); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.state(r.x.node.Namespace); !strings.Contains(s, "link br0") || strings.Contains(s, "link br1") {
		t.Errorf("after undoing to mark 2 the node has\n%s", s)
	}
	if err := r.x.undoTo(3); err == nil {
		t.Error("undoing to a mark that does not exist is no error")
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if s := r.state(r.x.node.Namespace); s != r.first {
		t.Errorf("after undoing to mark 1 the node has\n%s", s)
	}
}

func TestFileDigestIsChecked(t *testing.T) {
	r := newRig(t)
	r.file("rules", "*filter\nCOMMIT\n")
	path := filepath.Join(r.x.blobs, r.files["rules"].SHA256)
	if err := os.WriteFile(path, []byte("*filter\n-F\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.fails("", bundle.FaultRig, bundle.Rules{Tool: "iptables-legacy", File: "rules"}, "digest")
	r.fails("", bundle.FaultRig, bundle.Rules{Tool: "iptables-legacy", File: "other"}, `no file "other"`)
	r.files["evil"] = bundle.File{SHA256: "../../etc/passwd"}
	r.fails("", bundle.FaultRig, bundle.Rules{Tool: "iptables-legacy", File: "evil"}, "not a SHA-256")
}

// TestHeldNodes is how the local provider has two nodes in one helper.
func TestHeldNodes(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "node1"}, bundle.Netns{Name: "node2"}, bundle.Netns{Name: "client"})
	r.must("node1", bundle.Veth{Link: "data0", Peer: "data0", PeerIn: "node2"})
	// "On the node" is now in the namespace of that name, at both ends.
	r.must("", bundle.Bridge{Link: "br0"}, bundle.Veth{Link: "c0", Peer: "eth0", PeerIn: "client"}, bundle.Veth{Link: "x0", Peer: "x1"})
	r.must("client", bundle.Veth{Link: "back", Peer: "up0"})
	links := r.output("node1", "ip", "-br", "link")
	for _, name := range []string{"data0", "br0", "c0", "x0", "x1", "up0"} {
		if !strings.Contains(links, name) {
			t.Errorf("no %s in node1:\n%s", name, links)
		}
	}
}
