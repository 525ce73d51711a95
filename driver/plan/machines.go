package plan

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Inventory is the existing machines that an experiment runs on, and how.
type Inventory struct {
	Machines []Machine `json:"machines"`
	// AbandonAfter is how long a machine waits for a sign of life of its driver
	// before it undoes everything.
	AbandonAfter time.Duration `json:"abandon_after_ns"`
	Directory    string        `json:"directory"` // on a machine, for all that is pushed there
	// Cache keeps the directory, with images by digest, for the next run.
	Cache bool `json:"cache"`
}

// Machine is an existing computer. It holds paths and
// never a secret.
type Machine struct {
	Name string `json:"name"` // of the node it is: "node1", "node2"
	Host string `json:"host"` // name or address
	Port int    `json:"port"`
	User string `json:"user"` // other than root: one that may sudo without a password
	// Key is the private key's file and KnownHosts the file in which the machine's
	// host key is, as OpenSSH writes it: absolute, below "~/", or relative to
	// where the driver runs.
	Key        string `json:"key"`
	KnownHosts string `json:"known_hosts"`
	// Data is the NIC towards the other machine, borrowed for the run; "" where
	// everything happens on one machine.
	Data string `json:"data,omitempty"`
}

// Bounds and defaults of existing machines.
const (
	defaultAbandon   = 30 * time.Second
	minAbandon       = 5 * time.Second
	maxAbandon       = 10 * time.Minute
	defaultDirectory = "/var/lib/hookbed"
	defaultPort      = 22
	defaultUser      = "root"
	maxPort          = 65535
)

var (
	hostPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,252}$`)
	userPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	linkPattern = regexp.MustCompile(`^[^/\s:]{1,15}$`) // dev_valid_name in net/core/dev.c
	dirPattern  = regexp.MustCompile(`^(/[A-Za-z0-9_.-]+){2,}$`)
)

// nodeNames are the names of the nodes that a topology may have.
func nodeNames() []string { return []string{"node1", "node2"} }

// machineKeys are the keys of [lab] about existing machines.
func machineKeys() []string { return []string{"machine", "abandon_after", "directory", "cache"} }

// inventory reads what [lab] says of existing machines, nil where the provider has none.
func (l *loader) inventory(t *table, existing bool) *Inventory {
	l.labTable, l.machines = t, t.children("machine")
	inv := &Inventory{
		AbandonAfter: t.duration("abandon_after", defaultAbandon, minAbandon, maxAbandon),
		Directory:    directory(t),
		Cache:        t.flag("cache", false),
	}
	line := map[string]int{}
	for _, m := range l.machines {
		machine := l.machine(m)
		if first := line[machine.Name]; first > 0 && machine.Name != "" {
			m.problem("name", "%q is also the machine of line %d; each name once", machine.Name, first)
		}
		line[machine.Name] = m.at("name")
		inv.Machines = append(inv.Machines, machine)
	}
	if !existing {
		for _, key := range machineKeys() {
			if t.has(key) {
				t.problem(key, "is about existing machines; remove it, or write provider = %s", l.cat.withExisting())
			}
		}
		return nil
	}
	if line["node1"] == 0 && line[""] == 0 {
		t.problem("machine", "has no node1; write [[lab.machine]] with name = \"node1\", host, key and known_hosts")
	}
	slices.SortFunc(inv.Machines, func(a, b Machine) int { return strings.Compare(a.Name, b.Name) })
	return inv
}

// homePattern is where homes of users are; others are known only after a login.
var homePattern = regexp.MustCompile(`^(/home|/Users)/[^/]+$`)

// directory is a path on another computer for files of hookbed alone. What it holds
// is removed at the end, so it must be what it looks like.
func directory(t *table) string {
	const key = "directory"
	dir := t.name(key, defaultDirectory, dirPattern,
		"an absolute path below a top directory, of letters, digits, _, . and -, as in \""+defaultDirectory+"\"")
	switch {
	case path.Clean(dir) != dir:
		t.problem(key, "%q is %q, and what is there may be others'; write a directory that is hookbed's alone, without . and .., as in %q", dir, path.Clean(dir), defaultDirectory)
	case homePattern.MatchString(dir):
		t.problem(key, "%q is somebody's home directory; write a directory that is hookbed's alone, as in %q", dir, defaultDirectory)
	}
	return dir
}

func (l *loader) machine(t *table) Machine {
	for _, key := range []string{"password", "passphrase"} {
		if t.has(key) {
			t.get(key)
			t.problem(key, "is a secret, and an experiment holds none; remove it, and log in by a key")
		}
	}
	m := Machine{
		Name: t.level("name", "", nodeNames()),
		Host: t.name("host", "", hostPattern, "a host name or an address, as in \"192.0.2.11\""),
		Port: int(t.number("port", defaultPort, 1, maxPort)),
		User: t.name("user", defaultUser, userPattern, "a user of the machine"),
		Key:  l.path(t, "key"), KnownHosts: l.path(t, "known_hosts"),
		Data: t.name("data", "", linkPattern, "a network interface, as in \"eth1\""),
	}
	t.finish()
	for _, want := range []struct{ key, write string }{
		{"name", "\"node1\" or \"node2\""},
		{"host", "the machine's name or address"},
		{"key", "the path of a private key"},
		{"known_hosts", "the path of a file with the machine's host key, as `ssh-keyscan` prints it"},
	} {
		if !t.has(want.key) {
			t.problem(want.key, "is missing; write %s", want.write)
		}
	}
	return m
}

// path is a file relative to the experiment's directory, or an absolute one. What is in it is
// read when the machine is reached.
func (l *loader) path(t *table, key string) string {
	text := t.text(key, "")
	switch {
	case text == "":
		if t.has(key) {
			t.problem(key, "is empty, want a path")
		}
		return ""
	case filepath.IsAbs(text), strings.HasPrefix(text, "~/"):
		return text
	}
	return filepath.Join(filepath.Dir(l.doc.file), text)
}

// existingLab is a Lab on machines that are there already.
func (l *loader) existingLab(t *table, lab Lab) Lab {
	for _, key := range vmKeys() {
		if t.has(key) {
			t.problem(key, "is about VMs, and machines of provider %q are what they are; remove it, or write provider = %s", lab.Provider, l.cat.withVMs())
		}
	}
	if lab.Endpoint == EndpointDocker && !lab.Capabilities().Engines {
		t.problem("endpoint", "%q would put containers on a bridge in the machine's own network namespace, among its firewall and routes, which are left alone; write %q, or provider = %s",
			EndpointDocker, EndpointNetns, l.cat.withEngines())
	}
	return Lab{Provider: lab.Provider, Endpoint: lab.Endpoint, Clock: lab.Clock, Inventory: lab.Inventory, provider: lab.provider}
}

// enoughMachines checks the inventory against the scenarios.
func (l *loader) enoughMachines(s Spec) {
	if !l.labOK || !s.Lab.Capabilities().Existing || !slices.Contains(s.Scenarios, MultiHost) {
		return
	}
	if len(l.machines) < 2 {
		l.labTable.problem("machine", "has no node2, and scenario %q needs two machines; write another [[lab.machine]], or scenarios = [%q]", MultiHost, Localhost)
	}
	for _, m := range l.machines {
		if !m.has("data") {
			m.problem("data", "is missing, and scenario %q needs a NIC between the machines; write its name on this machine, as in data = \"eth1\"", MultiHost)
		}
	}
}
