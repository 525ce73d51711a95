package plan

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const machinesHead = `schema = 1
name = "t"
[lab]
provider = "ssh"
`

const machinesTail = `
[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "a"
datapath = "iptables"
`

const twoMachines = `
[[lab.machine]]
name = "node2"
host = "192.0.2.12"
port = 2222
user = "vagrant"
key = "~/.ssh/id_ed25519"
known_hosts = "/etc/ssh/ssh_known_hosts"
data = "eth1"
[[lab.machine]]
name = "node1"
host = "one.example"
key = "../keys/one"
known_hosts = "known_hosts"
data = "enp3s0f0np0"
`

func TestInventory(t *testing.T) {
	text := machinesHead + "abandon_after = \"1m\"\ndirectory = \"/srv/hookbed\"\ncache = true\n" + twoMachines + machinesTail
	s, err := Parse("experiments/t.toml", []byte(text), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	want := Lab{Provider: ProviderSSH, Endpoint: EndpointNetns, Clock: ClockWall, Inventory: &Inventory{
		AbandonAfter: time.Minute, Directory: "/srv/hookbed", Cache: true,
		Machines: []Machine{
			{"node1", "one.example", 22, "root", "keys/one", "experiments/known_hosts", "enp3s0f0np0"},
			{"node2", "192.0.2.12", 2222, "vagrant", "~/.ssh/id_ed25519", "/etc/ssh/ssh_known_hosts", "eth1"},
		},
	}}
	if !reflect.DeepEqual(s.Lab, want) {
		t.Errorf("lab %+v\nwant %+v", s.Lab.Inventory, want.Inventory)
	}
	p, err := Expand(s, testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Cells[0]; c.Get(FactorProvider) != ProviderSSH || c.Get(FactorKernel) != kernelOfHost {
		t.Errorf("factors %v", c.Factors)
	}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(data); err != nil || !reflect.DeepEqual(back.Spec.Lab, want) {
		t.Errorf("plan.json gives the lab %+v, %v", back, err)
	}
}

func TestInventoryProblems(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"none": {machinesHead + machinesTail, `t.toml:3: lab.machine: has no node1; write [[lab.machine]] with name = "node1", host, key and known_hosts`},
		"one for two": {machinesHead + `[[lab.machine]]
name = "node1"
host = "a"
key = "k"
known_hosts = "h"
data = "eth1"
` + machinesTail, `t.toml:5: lab.machine: has no node2, and scenario "multi-host" needs two machines; write another [[lab.machine]], or scenarios = ["localhost"]`},
		"no NIC": {machinesHead + strings.Replace(twoMachines, "data = \"eth1\"\n", "", 1) + machinesTail,
			`t.toml:6: lab.machine.data: is missing, and scenario "multi-host" needs a NIC between the machines`},
		"empty machine": {machinesHead + "[[lab.machine]]\n" + machinesTail, `t.toml:5: lab.machine.name: is missing; write "node1" or "node2"
t.toml:5: lab.machine.host: is missing; write the machine's name or address
t.toml:5: lab.machine.key: is missing; write the path of a private key
t.toml:5: lab.machine.known_hosts: is missing`},
		"password": {machinesHead + strings.Replace(twoMachines, "port = 2222", `password = "secret"`, 1) + machinesTail,
			`t.toml:9: lab.machine.password: is a secret, and an experiment holds none; remove it, and log in by a key`},
		"bad values": {machinesHead + strings.NewReplacer(`"192.0.2.12"`, `"me@there"`, "2222", "70000", `"eth1"`, `"eth 1"`, `"vagrant"`, `"a b"`).Replace(twoMachines) + machinesTail,
			`t.toml:8: lab.machine.host: "me@there" is not a name, want a host name or an address, as in "192.0.2.11"
t.toml:9: lab.machine.port: 70000 is out of range, want 1 to 65535
t.toml:10: lab.machine.user: "a b" is not a name, want a user of the machine
t.toml:13: lab.machine.data: "eth 1" is not a name, want a network interface, as in "eth1"`},
		"name": {machinesHead + strings.Replace(twoMachines, `"node2"`, `"node3"`, 1) + machinesTail,
			`t.toml:7: lab.machine.name: unknown level "node3", want "node1" or "node2" (did you mean "node1"?)`},
		"twice": {machinesHead + strings.Replace(twoMachines, `"node2"`, `"node1"`, 1) + machinesTail,
			`t.toml:15: lab.machine.name: "node1" is also the machine of line 7; each name once`},
		"unknown key": {machinesHead + strings.Replace(twoMachines, "port =", "prot =", 1) + machinesTail,
			`t.toml:9: lab.machine.prot: unknown key (did you mean "port"?)`},
		"keys of VMs": {machinesHead + "vcpus = 4\n" + twoMachines + machinesTail,
			`t.toml:5: lab.vcpus: is about VMs, and machines of provider "ssh" are what they are; remove it, or write provider = "libvirt"`},
		"docker": {machinesHead + "endpoint = \"docker\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.endpoint: "docker" would put containers on a bridge in the machine's own network namespace`},
		"virtual": {machinesHead + "clock = \"virtual\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.clock: "virtual" needs provider = "libvirt"`},
		"directory": {machinesHead + "directory = \"/\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.directory: "/" is not a name, want an absolute path below a top directory`},
		"relative directory": {machinesHead + "directory = \"srv/hookbed\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.directory: "srv/hookbed" is not a name, want an absolute path below a top directory`},
		"directory of a directory": {machinesHead + "directory = \"/srv/hookbed/..\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.directory: "/srv/hookbed/.." is "/srv", and what is there may be others'`},
		"directory with a dot": {machinesHead + "directory = \"/srv/./hookbed\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.directory: "/srv/./hookbed" is "/srv/hookbed"`},
		"home directory": {machinesHead + "directory = \"/home/anna\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.directory: "/home/anna" is somebody's home directory`},
		"cache": {machinesHead + "cache = \"yes\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.cache: is the text "yes", want true or false without quotes`},
		"abandon": {machinesHead + "abandon_after = \"1s\"\n" + twoMachines + machinesTail,
			`t.toml:5: lab.abandon_after: "1s" is out of range, want "5s" to "10m"`},
		"not tables": {machinesHead + "machine = 1\n" + machinesTail,
			`t.toml:5: lab.machine: is the number 1, want tables: write [[lab.machine]] before each`},
		"load limit": {machinesHead + twoMachines + "[measure]\nload_limit = 1.0\n" + machinesTail,
			`t.toml:21: measure.load_limit: is about this computer, and the machines of provider "ssh" are others`},
		"other provider": {strings.Replace(machinesHead, "ssh", "local", 1) + "cache = true\n" + twoMachines + machinesTail,
			`t.toml:5: lab.cache: is about existing machines; remove it, or write provider = "ssh"
t.toml:7: lab.machine: is about existing machines; remove it, or write provider = "ssh"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte(tt.text), testCatalog())
			if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant it to begin with\n%s", err, tt.want)
			}
		})
	}
}
