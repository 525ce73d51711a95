package plan

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Hypervisor is a computer on whose libvirtd nodes run. It holds paths and never
// a secret.
type Hypervisor struct {
	Nodes []string `json:"nodes"` // that run there: "node1", "node2"
	URI   string   `json:"uri"`   // as written, "qemu+ssh://root@host/system"
	Host  string   `json:"host"`  // of URI
	Port  int      `json:"port"`
	User  string   `json:"user"` // who may use libvirtd's socket and write Directory
	// Key and KnownHosts are paths as in Machine.
	Key        string `json:"key"`
	KnownHosts string `json:"known_hosts"`
	Socket     string `json:"socket"`    // libvirtd's, on the hypervisor
	Directory  string `json:"directory"` // there, for images and what a lab needs
	// DataBridge is an existing bridge of the hypervisor that the data network of
	// nodes on several hypervisors goes through; "" where one has them all.
	DataBridge string `json:"data_bridge,omitempty"`
}

// Title names a hypervisor for people.
func (h Hypervisor) Title() string {
	title := h.User + "@" + h.Host
	if h.Port != defaultPort {
		title += ":" + strconv.Itoa(h.Port)
	}
	return title
}

const (
	hypervisorScheme = "qemu+ssh"
	hypervisorWrite  = "write uri = \"qemu+ssh://root@host/system\""
	defaultSocket    = "/run/libvirt/libvirt-sock"
)

// hypervisors reads where nodes run; nil is this computer.
func (l *loader) hypervisors(t *table, lab Lab) []Hypervisor {
	l.labTable = t
	var out []Hypervisor
	line, known := map[string]int{}, true
	tables := t.children("hypervisor")
	for _, h := range tables {
		hypervisor := l.hypervisor(h)
		known = known && len(hypervisor.Nodes) > 0
		for _, n := range hypervisor.Nodes {
			if first := line[n]; first > 0 {
				h.problem("nodes", "%q is also on the hypervisor of line %d; each node once", n, first)
			}
			line[n] = h.at("nodes")
		}
		joined(h, len(tables) > 1)
		out = append(out, hypervisor)
	}
	switch {
	case len(tables) == 0:
		return nil
	case !lab.Capabilities().VMs:
		t.problem("hypervisor", "is about VMs; remove it, or write provider = %s", l.cat.withVMs())
	case lab.Clock == ClockVirtual:
		t.problem("hypervisor", "is of no use to clock = %q, whose numbers do not depend on the computer; remove it", ClockVirtual)
	case lab.Accel == AccelAuto:
		t.problem("accel", "is %q, which looks at this computer, and the nodes run on others; write %q or %q", AccelAuto, AccelKVM, AccelTCG)
	case line["node1"] == 0 && known:
		t.problem("hypervisor", "has no node1; write nodes = [\"node1\"]")
	}
	return out
}

// joined checks that a hypervisor has a bridge to others, if there are any.
func joined(h *table, several bool) {
	switch {
	case several && !h.has("data_bridge"):
		h.problem("data_bridge", "is missing, and nodes on several hypervisors need one; write the name of an existing bridge of this one, as in data_bridge = \"br-data\"")
	case !several && h.has("data_bridge"):
		h.problem("data_bridge", "is there, and all nodes are on one hypervisor, where the lab makes a network of its own; remove it")
	}
}

func (l *loader) hypervisor(t *table) Hypervisor {
	for _, key := range []string{"password", "passphrase"} {
		if t.has(key) {
			t.get(key)
			t.problem(key, "is a secret, and an experiment holds none; remove it, and log in by a key")
		}
	}
	h := Hypervisor{
		Nodes: t.levels("nodes", nodeNames()),
		URI:   t.text("uri", ""),
		Key:   l.path(t, "key"), KnownHosts: l.path(t, "known_hosts"),
		Socket:     t.name("socket", defaultSocket, dirPattern, "the absolute path of libvirtd's socket, as in \""+defaultSocket+"\""),
		Directory:  directory(t),
		DataBridge: t.name("data_bridge", "", linkPattern, "a bridge, as in \"br-data\""),
	}
	t.finish()
	for _, want := range []struct{ key, write string }{
		{"uri", hypervisorWrite},
		{"key", "write the path of a private key"},
		{"known_hosts", "write the path of a file with the hypervisor's host key, as `ssh-keyscan` prints it"},
	} {
		if !t.has(want.key) {
			t.problem(want.key, "is missing; %s", want.write)
		}
	}
	if t.has("uri") {
		h.locate(t)
	}
	return h
}

// locate takes the URI apart.
func (h *Hypervisor) locate(t *table) {
	u, err := url.Parse(h.URI)
	if err != nil { // which quotes what may hold a password
		t.problem("uri", "is no URI; %s", hypervisorWrite)
		return
	}
	if _, secret := u.User.Password(); secret {
		t.problem("uri", "has a password, and an experiment holds no secret; remove it, and log in by a key")
		return
	}
	switch {
	case u.Scheme != hypervisorScheme:
		t.problem("uri", "has the scheme %q, want %q, the only way to others; %s", u.Scheme, hypervisorScheme, hypervisorWrite)
		return
	case u.Path != "/system" || u.RawQuery != "" || u.Fragment != "":
		t.problem("uri", "%q does not end with \"/system\", the instance that has networks; keys of this table say the rest; %s", h.URI, hypervisorWrite)
		return
	case !hostPattern.MatchString(u.Hostname()):
		t.problem("uri", "%q has no host; %s", h.URI, hypervisorWrite)
		return
	}
	h.Host, h.Port, h.User = u.Hostname(), defaultPort, defaultUser
	if p := u.Port(); p != "" {
		if h.Port, err = strconv.Atoi(p); err != nil || h.Port < 1 || h.Port > maxPort {
			t.problem("uri", "has the port %s, which is out of range, want 1 to %d", p, maxPort)
		}
	}
	if u.User == nil {
		return
	}
	if h.User = u.User.Username(); !userPattern.MatchString(h.User) {
		t.problem("uri", "has the user %q, want a user of the hypervisor; %s", h.User, hypervisorWrite)
	}
}

// enoughHypervisors checks the placement against the scenarios and cards.
func (l *loader) enoughHypervisors(s Spec) {
	hypervisors := s.Lab.Hypervisors
	if !l.labOK || len(hypervisors) == 0 {
		return
	}
	if slices.Contains(s.Scenarios, MultiHost) && !slices.ContainsFunc(hypervisors, func(h Hypervisor) bool { return slices.Contains(h.Nodes, "node2") }) {
		l.labTable.problem("hypervisor", "has no node2, and scenario %q needs it; write it among the nodes of one, or scenarios = [%q]", MultiHost, Localhost)
	}
	var sizes []string
	for _, b := range s.Boots() {
		if size := fmt.Sprint(b.NIC.Bytes()); !slices.Contains(sizes, size) {
			sizes = append(sizes, size)
		}
	}
	if len(hypervisors) > 1 && len(sizes) > 1 {
		key := l.cardKey(s)
		l.doc.problem(max(l.doc.lines[key], 1), key, "has cards with MTUs of %s bytes, and a data_bridge has one; write cards with the same mtu, or put all nodes on one hypervisor", strings.Join(sizes, " and "))
	}
}
