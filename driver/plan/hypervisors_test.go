package plan

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const hypervisorsHead = `schema = 1
name = "t"
[lab]
endpoint = "netns"
accel = "kvm"
`

const twoHypervisors = `
[[lab.hypervisor]]
nodes = ["node1"]
uri = "qemu+ssh://one.example/system"
key = "../keys/one"
known_hosts = "known_hosts"
data_bridge = "br-data"
[[lab.hypervisor]]
nodes = ["node2"]
uri = "qemu+ssh://lab@192.0.2.12:2222/system"
key = "~/.ssh/id_ed25519"
known_hosts = "/etc/ssh/ssh_known_hosts"
socket = "/srv/libvirt/sock"
directory = "/srv/hookbed"
data_bridge = "br0"
`

const oneHypervisor = `
[[lab.hypervisor]]
nodes = ["node1", "node2"]
uri = "qemu+ssh://root@[2001:db8::1]:22/system"
key = "k"
known_hosts = "h"
`

func TestHypervisors(t *testing.T) {
	s, err := Parse("experiments/t.toml", []byte(hypervisorsHead+twoHypervisors+machinesTail), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	want := []Hypervisor{
		{[]string{"node1"}, "qemu+ssh://one.example/system", "one.example", 22, "root", "keys/one", "experiments/known_hosts", "/run/libvirt/libvirt-sock", "/var/lib/hookbed", "br-data"},
		{[]string{"node2"}, "qemu+ssh://lab@192.0.2.12:2222/system", "192.0.2.12", 2222, "lab", "~/.ssh/id_ed25519", "/etc/ssh/ssh_known_hosts", "/srv/libvirt/sock", "/srv/hookbed", "br0"},
	}
	if !reflect.DeepEqual(s.Lab.Hypervisors, want) {
		t.Errorf("hypervisors %+v\nwant %+v", s.Lab.Hypervisors, want)
	}
	if a, b := want[0].Title(), want[1].Title(); a != "root@one.example" || b != "lab@192.0.2.12:2222" {
		t.Errorf("titles %q and %q", a, b)
	}
	p, err := Expand(s, testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(data); err != nil || !reflect.DeepEqual(back.Spec.Lab.Hypervisors, want) {
		t.Errorf("plan.json gives %+v, %v", back, err)
	}
	if s, err = Parse("t.toml", []byte(hypervisorsHead+oneHypervisor+machinesTail), testCatalog()); err != nil || s.Lab.Hypervisors[0].Host != "2001:db8::1" {
		t.Errorf("one hypervisor for both nodes: %+v, %v", s.Lab.Hypervisors, err)
	}
}

// TestHypervisorsAreNoFactor: where the nodes run does not change which cells
// there are, and an experiment without hypervisors has a plan without any.
func TestHypervisorsAreNoFactor(t *testing.T) {
	expand := func(text string) *Plan {
		t.Helper()
		s, err := Parse("t.toml", []byte(text), testCatalog())
		if err != nil {
			t.Fatal(err)
		}
		p, err := Expand(s, testCatalog())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	here, there := expand(hypervisorsHead+machinesTail), expand(hypervisorsHead+twoHypervisors+machinesTail)
	if !reflect.DeepEqual(here.Cells, there.Cells) {
		t.Errorf("cells %+v\nelsewhere %+v", here.Cells, there.Cells)
	}
	if data, err := here.Encode(); err != nil || strings.Contains(string(data), "hypervisor") {
		t.Errorf("a plan without hypervisors: %s, %v", data, err)
	}
}

func TestHypervisorProblems(t *testing.T) {
	parsed := func(from, to string) string {
		return hypervisorsHead + strings.Replace(twoHypervisors, from, to, 1) + machinesTail
	}
	for name, tt := range map[string]struct{ text, want string }{
		"empty": {hypervisorsHead + "[[lab.hypervisor]]\n" + machinesTail, `t.toml:6: lab.hypervisor.nodes: is missing, want a list of some of "node1" or "node2"
t.toml:6: lab.hypervisor.uri: is missing; write uri = "qemu+ssh://root@host/system"
t.toml:6: lab.hypervisor.key: is missing; write the path of a private key
t.toml:6: lab.hypervisor.known_hosts: is missing; write the path of a file with the hypervisor's host key, as ` + "`ssh-keyscan` prints it"},
		"scheme":      {parsed("qemu+ssh://one", "qemu+tls://one"), `t.toml:9: lab.hypervisor.uri: has the scheme "qemu+tls", want "qemu+ssh", the only way to others; write uri = "qemu+ssh://root@host/system"`},
		"session":     {parsed("example/system", "example/session"), `t.toml:9: lab.hypervisor.uri: "qemu+ssh://one.example/session" does not end with "/system"`},
		"keyfile":     {parsed("example/system", "example/system?keyfile=k"), `t.toml:9: lab.hypervisor.uri: "qemu+ssh://one.example/system?keyfile=k" does not end with "/system", the instance that has networks; keys of this table say the rest`},
		"no host":     {parsed("one.example", ""), `t.toml:9: lab.hypervisor.uri: "qemu+ssh:///system" has no host; write uri`},
		"port":        {parsed(":2222", ":70000"), `t.toml:15: lab.hypervisor.uri: has the port 70000, which is out of range, want 1 to 65535`},
		"user":        {parsed("lab@", "a%20b@"), `t.toml:15: lab.hypervisor.uri: has the user "a b", want a user of the hypervisor; write uri`},
		"secret":      {parsed("lab@", "lab:secret@"), `t.toml:15: lab.hypervisor.uri: has a password, and an experiment holds no secret; remove it, and log in by a key`},
		"no URI":      {parsed("qemu+ssh://one.example/system", "://"), `t.toml:9: lab.hypervisor.uri: is no URI; write uri = "qemu+ssh://root@host/system"`},
		"password":    {parsed("socket = \"/srv/libvirt/sock\"", "password = \"x\""), `t.toml:18: lab.hypervisor.password: is a secret, and an experiment holds none`},
		"node":        {parsed(`"node2"`, `"node3"`), `t.toml:14: lab.hypervisor.nodes: unknown level "node3", want "node1" or "node2"`},
		"node twice":  {parsed(`"node2"`, `"node1"`), `t.toml:14: lab.hypervisor.nodes: "node1" is also on the hypervisor of line 8; each node once`},
		"bad key":     {parsed("socket =", "sockte ="), `t.toml:18: lab.hypervisor.sockte: unknown key (did you mean "socket"?)`},
		"bad socket":  {parsed(`"/srv/libvirt/sock"`, `"sock"`), `t.toml:18: lab.hypervisor.socket: "sock" is not a name, want the absolute path of libvirtd's socket`},
		"bad bridge":  {parsed(`"br-data"`, `"br data"`), `t.toml:12: lab.hypervisor.data_bridge: "br data" is not a name, want a bridge, as in "br-data"`},
		"home":        {parsed(`"/srv/hookbed"`, `"/home/anna"`), `t.toml:19: lab.hypervisor.directory: "/home/anna" is somebody's home directory`},
		"parent":      {parsed(`"/srv/hookbed"`, `"/srv/hookbed/../x"`), `t.toml:19: lab.hypervisor.directory: "/srv/hookbed/../x" is "/srv/x"`},
		"directory":   {parsed(`"/srv/hookbed"`, `"/srv"`), `t.toml:19: lab.hypervisor.directory: "/srv" is not a name, want an absolute path below a top directory`},
		"no bridge":   {parsed("data_bridge = \"br-data\"\n", ""), `t.toml:7: lab.hypervisor.data_bridge: is missing, and nodes on several hypervisors need one; write the name of an existing bridge of this one, as in data_bridge = "br-data"`},
		"bridge":      {hypervisorsHead + oneHypervisor + "data_bridge = \"b\"\n" + machinesTail, `t.toml:12: lab.hypervisor.data_bridge: is there, and all nodes are on one hypervisor, where the lab makes a network of its own; remove it`},
		"no node1":    {hypervisorsHead + strings.Replace(oneHypervisor, `"node1", `, "", 1) + machinesTail, `t.toml:7: lab.hypervisor: has no node1; write nodes = ["node1"]`},
		"no node2":    {hypervisorsHead + strings.Replace(oneHypervisor, `, "node2"`, "", 1) + machinesTail, `t.toml:7: lab.hypervisor: has no node2, and scenario "multi-host" needs it; write it among the nodes of one, or scenarios = ["localhost"]`},
		"auto":        {strings.Replace(hypervisorsHead, `"kvm"`, `"auto"`, 1) + twoHypervisors + machinesTail, `t.toml:5: lab.accel: is "auto", which looks at this computer, and the nodes run on others; write "kvm" or "tcg"`},
		"virtual":     {strings.Replace(hypervisorsHead, `accel = "kvm"`, `clock = "virtual"`, 1) + twoHypervisors + machinesTail, `t.toml:7: lab.hypervisor: is of no use to clock = "virtual"`},
		"provider":    {strings.Replace(hypervisorsHead, `accel = "kvm"`, `provider = "local"`, 1) + twoHypervisors + machinesTail, `t.toml:7: lab.hypervisor: is about VMs; remove it, or write provider = "libvirt"`},
		"not tables":  {hypervisorsHead + "hypervisor = 1\n" + machinesTail, `t.toml:6: lab.hypervisor: is the number 1, want tables: write [[lab.hypervisor]] before each`},
		"load limit":  {hypervisorsHead + twoHypervisors + "[measure]\nload_limit = 1.0\n" + machinesTail, `t.toml:22: measure.load_limit: is about this computer, and the nodes run on others; remove it, or write steal_limit`},
		"several MTU": {hypervisorsHead + twoHypervisors + strings.Replace(machinesTail, "policies", "nics = [{ model = \"virtio\" }, { model = \"virtio\", mtu = 1400 }]\npolicies", 1), `t.toml:25: matrix.nics: has cards with MTUs of 1500 and 1400 bytes, and a data_bridge has one`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte(tt.text), testCatalog())
			if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant it to begin with\n%s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret@") {
				t.Errorf("the message tells the password: %v", err)
			}
		})
	}
}
