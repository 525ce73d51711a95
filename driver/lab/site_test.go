package lab

import (
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/images"
)

func hypervisorConfig(nodes int) Config {
	return Config{Name: "r123", StateDir: "/state/r123", Nodes: nodes, Lab: plan.Lab{Hypervisors: []plan.Hypervisor{
		{Nodes: []string{"node2"}, Host: "b", Port: 22, User: "lab", Key: "keys/b", KnownHosts: "~/.ssh/known_hosts", Directory: "/srv/hookbed"},
		{Nodes: []string{"node1"}, Host: "a", Port: 22, User: "root", Key: "/keys/a", KnownHosts: "/keys/known", Directory: "/var/lib/hookbed"},
	}}}
}

func TestSites(t *testing.T) {
	cfg := hypervisorConfig(2)
	name, err := labName(cfg)
	if err != nil || !regexp.MustCompile(`^r123-[0-9a-f]{8}$`).MatchString(name) {
		t.Fatalf("lab name %q, %v", name, err)
	}
	if other, _ := labName(cfg); other == name {
		t.Errorf("two labs are called %s", name)
	}
	all := sites(cfg, name, "")
	if len(all) != 2 || all[0].title() != "lab@b" || all[1].title() != "root@a" {
		t.Fatalf("sites %+v", all)
	}
	first, second := all[0].hypervisor.(*otherComputer), all[1].hypervisor.(*otherComputer)
	if got, want := all[1].imagePath(images.Artifact{Path: "/cache/root.squashfs", SHA256: "abcd"}), "/var/lib/hookbed/images/abcd-root.squashfs"; got != want {
		t.Errorf("image at %s, want %s", got, want)
	}
	if got, want := first.lab.Path, "/srv/hookbed/labs/"+name; got != want {
		t.Errorf("the lab's directory is %s, want %s", got, want)
	}
	if key := first.at.Key; !filepath.IsAbs(key) || !strings.HasSuffix(key, "/keys/b") || first.at.KnownHosts != "~/.ssh/known_hosts" || second.at.Key != "/keys/a" {
		t.Errorf("paths for a later `driver down`: %s, %s, %s", key, first.at.KnownHosts, second.at.Key)
	}
	if cfg.Lab.Hypervisors[0].Key != "keys/b" {
		t.Error("the experiment's own paths were changed")
	}
	if one := sites(hypervisorConfig(1), name, ""); len(one) != 1 || one[0].title() != "root@a" {
		t.Errorf("a lab of node1 alone is on %d hypervisors", len(one))
	}
	here := Config{Name: "r123", StateDir: "/state/r123", Nodes: 2}
	if name, err := labName(here); err != nil || name != "r123" {
		t.Errorf("a lab here is called %s, %v", name, err)
	}
	local := sites(here, "r123", "")
	local[0].mgmt = netip.MustParsePrefix(mgmtCIDR)
	if len(local) != 1 || local[0].hypervisor.(*thisComputer).dir != here.StateDir || local[0].address(1) != netip.MustParseAddr("198.18.0.12") || local[0].imagePath(images.Artifact{Path: "/cache/x"}) != "/cache/x" {
		t.Errorf("sites of a lab here: %+v", local[0])
	}
	_, far := all[0].hypervisor.(described)
	if _, here := local[0].hypervisor.(described); here || !far || !local[0].has("node2") || all[0].has("node1") {
		t.Errorf("a hypervisor here is written down: %v, one elsewhere: %v", here, far)
	}
}

// TestLabsDoNotMeet: labs of several drivers on one computer, or one bridge.
func TestLabsDoNotMeet(t *testing.T) {
	seen := map[string]string{}
	for _, lab := range []string{"r123-0a1b2c3d", "r123-0a1b2c3e", "up-ffffffff"} {
		for _, kind := range []string{"m", "d"} {
			seen[bridgeName(lab, kind)] = lab
			if n := len(bridgeName(lab, kind)); n > 15 {
				t.Errorf("bridge %s has %d characters", bridgeName(lab, kind), n)
			}
		}
		for node := range 2 {
			for _, network := range []int{mgmtNetwork, dataNetwork} {
				mac := macOf(lab, network, node)
				seen[mac] = lab
				if hw, err := net.ParseMAC(mac); err != nil || len(hw) != 6 || hw[0]&3 != 2 {
					t.Errorf("%s is no locally administered address of one card: %v", mac, err)
				}
			}
		}
	}
	if len(seen) != 3*(2+4) {
		t.Errorf("some names or addresses are of two labs: %v", seen)
	}
	for lab, want := range map[string]string{"r123": "52:54:00:12:00:0b", "up": "52:54:00:12:00:0b"} {
		if got := macOf(lab, mgmtNetwork, 0); got != want {
			t.Errorf("node1 of lab %s here has the address %s, want %s", lab, got, want)
		}
	}
}

// TestManagementRanges: they hold a driver's address and those of the nodes, and
// nothing that the nodes or endpoints have.
func TestManagementRanges(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix(dataNet), netip.MustParsePrefix(mgmtCIDR), netip.MustParsePrefix("198.19.0.0/16"), datapath.NodeAt(1).Subnet, datapath.NodeAt(2).Subnet}
	different := map[netip.Prefix]bool{}
	for range 200 {
		p, err := someRange()
		if err != nil {
			t.Fatal(err)
		}
		different[p.Masked()] = true
		s := &site{mgmt: p, first: 1}
		if p.Bits() != 28 || p.Addr() != p.Masked().Addr().Next() || !netip.MustParsePrefix(mgmtRanges).Contains(p.Addr()) || !p.Contains(s.address(0)) || !p.Contains(s.address(1)) ||
			s.address(0) != p.Addr().Next() || s.address(1) != s.address(0).Next() {
			t.Errorf("range %s with the nodes %s and %s", p, s.address(0), s.address(1))
		}
		for _, other := range taken {
			if other.Overlaps(p) {
				t.Errorf("%s overlaps %s", p, other)
			}
		}
	}
	if len(different) < 100 {
		t.Errorf("%d different ranges of 200", len(different))
	}
}

func TestProxy(t *testing.T) {
	s := State{Hypervisors: []plan.Hypervisor{{Nodes: []string{"node2"}, Host: "b", Port: 2222, User: "lab", Key: "/a key's/100%", KnownHosts: "/known"}}}
	want := `ssh '-i' '/a key'\''s/100%%' '-o' 'UserKnownHostsFile=/known' '-o' 'StrictHostKeyChecking=yes' '-o' 'IdentitiesOnly=yes' '-o' 'LogLevel=ERROR' '-p' '2222' -W %h:%p 'lab@b'`
	if got := s.Proxy("node2"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := s.Proxy("node1"); got != "" {
		t.Errorf("node1, which is here, is reached by %s", got)
	}
}

// TestClearSparesOthers: a state file that names no lab removes no directory of labs.
func TestClearSparesOthers(t *testing.T) {
	for _, name := range []string{"", ".", "r123"} {
		s := newOther(plan.Hypervisor{Host: "198.18.255.1", Directory: "/var/lib/hookbed"}, t.TempDir(), name, "", 0)
		if err := s.clear(t.Context()); err != nil {
			t.Errorf("%q: %v, want nothing to be done", name, err)
		}
	}
}
