package step

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/cgroup"
)

// agentRig is a rig with a root file system in which the stand-in is the agent.
type agentRig struct {
	*rig
	root string
	fail string
}

func newAgentRig(t *testing.T, fail string) agentRig {
	t.Helper()
	r := agentRig{rig: newRig(t), root: t.TempDir(), fail: fail}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"dev", "proc", "run", "sys", "tmp", "usr/bin", standInLib} {
		if err := os.MkdirAll(filepath.Join(r.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{standInAgent, standInTool, standInEtcd} {
		if err := os.WriteFile(filepath.Join(r.root, "usr/bin", name), self, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if fail == failOld {
		r.writeOldVersion()
	}
	r.x.external.roots = map[string]string{bundle.RootCilium: r.root, bundle.RootEtcd: r.root}
	r.must("", bundle.Netns{Name: "server"})
	return r
}

// writeOldVersion has the program say another version.
func (r agentRig) writeOldVersion() {
	if err := os.WriteFile(filepath.Join(r.root, "usr/bin/old-version"), nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

const agentHandle = "agent"

// never is how long is waited for what does not happen, in seconds: so long that a busy machine's
// stand-in answers at least once.
const never = 3

func (r agentRig) daemon() bundle.Daemon {
	return bundle.Daemon{Handle: agentHandle, Root: bundle.RootCilium, Argv: []string{standInAgent, r.fail}, Socket: standInSocket,
		Dirs: []string{"cilium/cnp"}, After: []string{standInTool, r.fail}, PIDFile: standInPID, Timeout: 30}
}

func (r agentRig) ready() bundle.CiliumReady {
	return bundle.CiliumReady{Agent: agentHandle, Program: standInAgent, Timeout: 20,
		Modes: bundle.CiliumModes{Within: bundle.HostBPF, Between: bundle.RoutedNative, Device: bundle.DeviceVeth}}
}

func (r agentRig) endpoint() bundle.CiliumEndpoint {
	return bundle.CiliumEndpoint{Agent: agentHandle, Endpoint: "server", Link: "lxcserver", MAC: "02:12:00:00:00:02", Peer: "eth0", PeerMAC: "02:12:00:00:00:01",
		Addr: "198.18.11.20", Labels: []string{"k8s:app=server"}, Timeout: 20}
}

// policies loads so many, and takes at most so many seconds.
func (r agentRig) policies(n int, timeout float64) bundle.CiliumPolicies {
	r.file("policies", policiesText(n))
	return bundle.CiliumPolicies{Agent: agentHandle, Endpoint: "server", File: "policies", To: "/run/cilium/cnp/hookbed.yaml", Timeout: timeout}
}

func (r agentRig) read(name string) bundle.Read {
	return bundle.Read{Name: name, From: bundle.Counter{Cilium: &bundle.CiliumCounter{Agent: agentHandle, Endpoint: "server"}}}
}

func TestCiliumAgent(t *testing.T) {
	r := newAgentRig(t, failNever)
	later := r.daemon()
	later.Later = true
	r.must("", bundle.Daemon{Handle: "store", Root: bundle.RootEtcd, Argv: []string{standInEtcd, "127.0.0.1:2379"}, Port: 2379}, later)
	for tested, want := range map[string]float64{"1.17": 0, "1.1": 1} {
		ready := r.ready()
		ready.Tested = []string{tested}
		got := r.must("", ready)
		if got.Note != "1.17.3" || got.Values[bundle.MetricAgentVersion] != 1017003 || got.Values[bundle.MetricAgentUntested] != want {
			t.Errorf("with %s tested the version is %q, %v", tested, got.Note, got.Values)
		}
	}
	r.must("", r.endpoint(), r.read("before"))
	if err := r.x.endpoints["server"].WithNetlink(func(h *netlink.Handle) error {
		routes, err := h.RouteGet([]byte{203, 0, 113, 1})
		if err == nil && (len(routes) != 1 || routes[0].Gw.String() != standInRouter) {
			t.Errorf("the endpoint's default route is %v", routes)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	for _, n := range []int{3, 200} {
		if got := r.must("", r.policies(n, 20)); got.Values[bundle.MetricLoad] <= 0 {
			t.Errorf("loading took %v", got.Values)
		}
		r.must("", r.read("after"),
			bundle.Expect{What: "ready", Read: "after", Key: bundle.CountReady, Op: bundle.Equal, Value: 1},
			bundle.Expect{What: "revision", Read: "after", Since: "before", Key: bundle.CountRevision, Op: bundle.AtLeast, Value: 1},
			bundle.Expect{What: "entries", Read: "after", Key: bundle.CountPolicyEntries, Op: bundle.Equal, Value: uint64(n + 1)},
			bundle.Expect{What: "drops", Read: "after", Since: "before", Key: bundle.CountDropped, Op: bundle.Equal, Value: 3})
	}
}

// TestCiliumFailsOpen: each of these enforces nothing, or not all, while its API answers.
func TestCiliumFailsOpen(t *testing.T) {
	t.Run("regenerating", func(t *testing.T) {
		r := newAgentRig(t, failOpen)
		r.must("", r.daemon(), r.ready(), r.endpoint())
		r.fails("", bundle.FaultSubject, r.policies(3, never), `is "regenerating" at revision 2`)
	})
	t.Run("revision of before", func(t *testing.T) {
		r := newAgentRig(t, failEarlyRevise)
		r.must("", r.daemon(), r.ready(), r.endpoint())
		r.fails("", bundle.FaultSubject, r.policies(3, never), `is "ready" at revision 1`)
	})
	t.Run("an entry is missing", func(t *testing.T) {
		r := newAgentRig(t, failOneMissing)
		r.must("", r.daemon(), r.ready(), r.endpoint(), r.policies(3, 20), r.read("after"))
		r.fails("", bundle.FaultSubject, bundle.Expect{What: "entries", Read: "after", Key: bundle.CountPolicyEntries, Op: bundle.Equal, Value: 4}, "entries")
	})
	t.Run("the agent ends", func(t *testing.T) {
		r := newAgentRig(t, failEnds)
		r.must("", r.daemon(), r.ready(), r.endpoint())
		r.fails("", bundle.FaultSubject, r.policies(3, 20), "Failed to translate policy yaml")
	})
	t.Run("unwell", func(t *testing.T) {
		r := newAgentRig(t, failUnwell)
		r.must("", r.daemon())
		soon := r.ready()
		soon.Timeout = never
		r.fails("", bundle.FaultSubject, soon, `its health is "Failure"`)
	})
}

// TestCiliumRouter: an agent may choose for its router the address of an endpoint. That is tried
// again, as what the rig did is.
func TestCiliumRouter(t *testing.T) {
	r := newAgentRig(t, failNever)
	same := r.endpoint()
	same.Addr = standInRouter
	r.must("", r.daemon(), r.ready())
	r.fails("", bundle.FaultRig, same, "for its router")
	r.must("", r.endpoint())
}

// TestCiliumFallsBack: an agent that is well, and does other than its flags say.
func TestCiliumFallsBack(t *testing.T) {
	r := newAgentRig(t, failFallsBack)
	r.must("", r.daemon())
	r.fails("", bundle.FaultSubject, r.ready(), `it delivers within its node by "Legacy", and should by its flags "BPF"`)
}

// TestCiliumModes: each mode that is another than it should be is named, and no other.
func TestCiliumModes(t *testing.T) {
	want := bundle.CiliumModes{Within: bundle.HostBPF, Between: bundle.RoutedNative, Device: bundle.DeviceVeth}
	if err := otherModes(want, want); err != nil {
		t.Error(err)
	}
	for word, change := range map[string]func(*bundle.CiliumModes){
		"within its node": func(m *bundle.CiliumModes) { m.Within = bundle.HostStack },
		"other nodes":     func(m *bundle.CiliumModes) { m.Between = "" },
		"joins endpoints": func(m *bundle.CiliumModes) { m.Device = bundle.DeviceNetkitL2 },
		"at sockets":      func(m *bundle.CiliumModes) { m.SocketLookup = true },
	} {
		is := want
		change(&is)
		if err := otherModes(is, want); err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), ";") {
			t.Errorf("%+v: %v, want only %q", is, err, word)
		}
	}
}

// TestCiliumCgroup: an agent with a cgroup of its own attaches there what sees the sockets of its
// endpoints. Neither the root of the hierarchy nor what runs elsewhere sees anything of it.
func TestCiliumCgroup(t *testing.T) {
	mounts, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	top := newHierarchy(mounts)
	before := connectPrograms(t, top)
	r := newAgentRig(t, attaches)
	mark := r.x.undo.mark()
	own := r.daemon()
	own.Cgroup = true
	r.must("", own, r.ready(), r.endpoint())
	dir := r.x.external.agents[agentHandle].cgroup
	if at := connectPrograms(t, dir); len(at) != 1 || r.x.endpoints["server"].Cgroup != dir {
		t.Errorf("%d programs are at %s, and the endpoint is in %q", len(at), dir, r.x.endpoints["server"].Cgroup)
	}
	if at := connectPrograms(t, top); !slices.Equal(at, before) {
		t.Errorf("at the root are programs %v, and were %v", at, before)
	}
	connect := bundle.Exec{Argv: []string{"bash", "-c", "exec 3<>/dev/udp/127.0.0.1/9"}, Timeout: 60}
	r.must("", connect)
	r.fails("server", bundle.FaultSubject, connect, "Operation not permitted")
	if err := r.x.undoTo(mark); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", dir, err)
	}
	r.must("server", connect)
}

// TestCiliumCgroupWithoutPrograms: the agent says that it looks services up at sockets, and does not
// see those of its endpoints.
func TestCiliumCgroupWithoutPrograms(t *testing.T) {
	r := newAgentRig(t, failNever)
	own := r.daemon()
	own.Cgroup = true
	r.must("", own, r.ready())
	r.fails("", bundle.FaultSubject, r.endpoint(), "has no program at cgroup")
}

// connectPrograms are the IDs of the programs at a cgroup that see sockets connect.
func connectPrograms(t *testing.T, dir string) (ids []ebpf.ProgramID) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func TestCiliumOldVersion(t *testing.T) {
	r := newAgentRig(t, failOld)
	r.must("", r.daemon())
	r.fails("", bundle.FaultUnsupported, r.ready(), "1.15.9")
}

// TestCiliumKeepsTheImage: the agent writes to its library, and its tool removes that.
func TestCiliumKeepsTheImage(t *testing.T) {
	r := newAgentRig(t, failNever)
	mark := r.x.undo.mark()
	r.must("", r.daemon())
	if err := r.x.undoTo(mark); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(filepath.Join(r.root, standInLib)); err != nil || len(files) > 0 {
		t.Errorf("the library has %v, %v; want it as it was", files, err)
	}
}

// removeStandInLink removes what the agent's tool has left on purpose.
func (r agentRig) removeStandInLink() {
	r.t.Helper()
	if err := r.x.node.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(standInLink)
		if err == nil {
			err = h.LinkDel(l)
		}
		return err
	}); err != nil {
		r.t.Error(err)
	}
}

// TestCiliumKilled: an agent that was killed left the file of its PID, and its tool cleans up only
// without it.
func TestCiliumKilled(t *testing.T) {
	r := newAgentRig(t, failNever)
	for _, file := range []string{standInPID, ""} {
		own := r.daemon()
		own.PIDFile = file
		mark := r.x.undo.mark()
		r.must("", own)
		err := r.x.undoTo(mark)
		if refused := err != nil && strings.Contains(err.Error(), "should not be running"); refused != (file == "") {
			t.Errorf("with the file %q named: %v", file, err)
		}
	}
	r.removeStandInLink()
}

// TestCiliumKeepsTheNamespace: what the agent changes of its node's firewall, sysctls and routes goes
// with it, and what was there before stays.
func TestCiliumKeepsTheNamespace(t *testing.T) {
	r := newAgentRig(t, failNever)
	r.output("", "nft", "add table ip filter; add chain ip filter OWN; add rule ip filter OWN accept")
	look := func() string {
		return r.output("", "nft", "list", "ruleset") + r.output("", "cat", standInSysctl) + r.output("", "ip", "-4", "route", "show", "table", "all")
	}
	r.output("", "ip", "link", "add", "hb-keep", "type", "veth", "peer", "name", "hb-peer")
	r.output("", "ip", "link", "set", "hb-peer", "up")
	r.output("", "ip", "link", "set", "hb-keep", "up")
	r.output("", "ip", "route", "add", "198.18.12.0/24", "dev", "hb-keep")
	before := look()
	mark := r.x.undo.mark()
	r.must("", r.daemon())
	r.output("", "nft", "add chain ip filter AGENT; add rule ip filter AGENT accept; add rule ip filter OWN jump AGENT; add table ip6 raw")
	r.output("", "ip", "route", "add", "198.18.13.0/24", "dev", "hb-keep", "proto", "kernel")
	r.output("", "ip", "route", "add", "198.18.12.0/24", "dev", "hb-keep", "table", "2004")
	if got := r.output("", "cat", standInSysctl); strings.TrimSpace(got) != "1" {
		t.Fatalf("the stand-in left the sysctl at %q", got)
	}
	if err := r.x.undoTo(mark); err != nil {
		t.Fatal(err)
	}
	if after := look(); after != before {
		t.Errorf("the node has\n%s\nand had\n%s", after, before)
	}
	r.output("", "ip", "link", "del", "hb-keep")
}

// TestCiliumLeavesALink: what the agent's tool does not remove is reported.
func TestCiliumLeavesALink(t *testing.T) {
	r := newAgentRig(t, failKeepsLink)
	mark := r.x.undo.mark()
	r.must("", r.daemon())
	if err := r.x.undoTo(mark); err == nil || !strings.Contains(err.Error(), "left link "+standInLink) {
		t.Errorf("undo says %v, want the link that is left", err)
	}
	r.removeStandInLink()
}

func TestTooOld(t *testing.T) {
	for version, want := range map[string]bool{"1.15.9": true, "0.9.0": true, "1.16.0": false, "1.16.0-rc.1": false, "1.20.0-dev": false, "2.0.0": false} {
		if tooOld(version, bundle.CiliumLeast) != want {
			t.Errorf("%s: want too old = %v", version, want)
		}
	}
}
