package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/driver/policy"
)

// FactorPolicySet is what an experiment's own policies are: only in cells of experiments
// that have some.
const FactorPolicySet = "policy_set"

// Own is policies that the user wrote: arms enforce what they admit at one pod, the server.
type Own struct {
	Files     []File `json:"files"`
	Inventory File   `json:"inventory"`
	// Server and Client are pods of the inventory, Port is where the server is measured.
	Server string `json:"server"`
	Client string `json:"client"`
	Port   int    `json:"port"`
	// Policies is how many there are in all files.
	Policies int `json:"policies"`

	cluster *policy.Cluster
	inPlace bool
}

// Cluster is the policies about the pods of the inventory.
func (o *Own) Cluster() (*policy.Cluster, error) {
	if o.cluster != nil {
		return o.cluster, nil
	}
	var sets []*policy.Set
	for _, f := range o.Files {
		s, err := policy.Read(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	var in *policy.Inventory
	if o.Inventory.Path != "" {
		var err error
		if in, err = policy.ReadInventory(o.Inventory.Path, o.Inventory.Data); err != nil {
			return nil, err
		}
	}
	return policy.NewCluster(policy.Join(sets...), in)
}

// InPlace is policies whose pods keep the addresses of the inventory: to be read, not run.
func InPlace(c *policy.Cluster, client, server string, port int) *Own {
	return &Own{Server: server, Client: client, Port: port, Policies: c.Policies(), cluster: c, inPlace: true}
}

// InPlace says whether client and server keep the addresses that the inventory has for them;
// in a testbed they have its own.
func (o *Own) InPlace() bool { return o.inPlace }

// digest is the beginning of the SHA-256 of what the policies and the flow are.
func (o *Own) digest() string {
	h := sha256.New()
	for _, f := range append(slices.Clone(o.Files), o.Inventory) {
		fmt.Fprintf(h, "%s %d\n%s", f.Path, len(f.Data), f.Data)
	}
	fmt.Fprintf(h, "%s %s %d\n", o.Server, o.Client, o.Port)
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// own reads the [[policy]] tables: files that are joined to one set, and, in one of them,
// the inventory and the flow that is measured. nil if there are none.
func (l *loader) own(root *table) *Own {
	tables := root.children("policy")
	if len(tables) == 0 {
		return nil
	}
	out, line := &Own{}, tables[0]
	before := len(l.doc.problems)
	for _, t := range tables {
		if path := t.text("file", ""); path != "" {
			if f, ok := l.ownFile(t, "file", path); ok {
				out.Files = append(out.Files, f)
			}
		} else if !t.has("file") {
			t.problem("file", "is missing; write file = \"policies.yaml\", with a path below the experiment's directory")
		}
		if path := t.text("inventory", ""); path != "" {
			if out.Inventory.Path != "" {
				t.problem("inventory", "is there twice; all files are about one inventory")
			}
			out.Inventory, _ = l.ownFile(t, "inventory", path)
			line = t
		}
		out.Server, out.Client = cmp.Or(t.text("server", ""), out.Server), cmp.Or(t.text("client", ""), out.Client)
		out.Port = cmp.Or(int(t.number("port", 0, 1, policy.LastPort)), out.Port)
		t.finish()
	}
	if out.Inventory.Path == "" && len(l.doc.problems) == before {
		line.problem("inventory", "is missing; write inventory = \"pods.toml\", which says the addresses of pods and their labels")
	}
	return out
}

// ownFile reads a file that a [[policy]] names. Its path becomes the name in messages.
func (l *loader) ownFile(t *table, key, path string) (File, bool) {
	if !filepath.IsLocal(path) {
		t.problem(key, "is %q, want a path below the experiment's directory", path)
		return File{}, false
	}
	data, err := readFile(filepath.Dir(l.doc.file), path)
	if err != nil {
		t.problem(key, "names %q, which cannot be read: %v", path, err)
		return File{}, false
	}
	return File{Path: path, Data: data}, true
}

// reservedPorts are what the testbed serves for itself.
func (c Catalog) reservedPorts() (out []uint16) {
	for _, p := range c.Reserved {
		out = append(out, uint16(p))
	}
	return out
}

// chooseOwn compiles the policies and chooses the flow that is measured, among those of
// the workloads' protocol.
func (l *loader) chooseOwn(s *Spec) {
	o := s.Own
	at := &table{doc: l.doc, path: element("policy", 0)}
	cluster, err := o.Cluster()
	if err != nil {
		l.ownProblem(at, err)
		return
	}
	proto := policy.ProtoTCP
	if len(s.Workloads) > 0 {
		if w, _ := l.cat.workload(s.Workloads[0]); w.Protocol == catalog.UDP {
			proto = policy.ProtoUDP
		}
	}
	if slices.Contains(l.cat.Reserved, o.Port) && o.Port != 0 {
		at.problem("port", "%d is one that the testbed serves for itself; choose another", o.Port)
		return
	}
	want := policy.Measured{Client: o.Client, Server: o.Server, Proto: proto, Port: uint16(o.Port)}
	m, err := cluster.Choose(want, l.cat.reservedPorts()...)
	if err != nil && l.makeRequests(s.Workloads) {
		want.Requests = true
		m, err = cluster.Choose(want, l.cat.reservedPorts()...)
	}
	if err != nil {
		l.ownProblem(at, err)
		return
	}
	o.cluster, o.Client, o.Server, o.Port, o.Policies = cluster, m.Client, m.Server, int(m.Port), cluster.Policies()
	s.Policies = []int{0, o.Policies}
}

// makeRequests says whether all workloads make requests of HTTP.
func (l *loader) makeRequests(workloads []string) bool {
	other := func(name string) bool {
		w, _ := l.cat.workload(name)
		return w.Application != catalog.HTTP
	}
	return len(workloads) > 0 && !slices.ContainsFunc(workloads, other)
}

// ownProblem notes what is wrong with the files of policies: each problem with the line of
// its own file.
func (l *loader) ownProblem(at *table, err error) {
	var invalid *policy.InvalidError
	if !errors.As(err, &invalid) {
		at.problem("file", "%v", err)
		return
	}
	dir := filepath.Dir(l.doc.file)
	for _, p := range invalid.Problems {
		p.At.File = filepath.Join(dir, p.At.File)
		at.problem("file", "%s", p)
	}
}

// ownArm refuses what an arm cannot say of policies that are given, and what its mechanism
// cannot hold of them.
func (l *loader) ownArm(t *table, key string, d DatapathEntry, s Spec, a Arm) {
	if s.Own == nil || d.OwnRefuses == nil || !l.labOK {
		return
	}
	for _, scenario := range s.Scenarios {
		if why := d.OwnRefuses(s, a, scenario); why != "" {
			t.problem(key, "%q cannot enforce the policies of [[policy]]: %s", t.keys[key], why)
			return
		}
	}
}

// ownOptions gives an arm the levels of options that the policies decide.
func (l *loader) ownOptions(t *table, d DatapathEntry, s Spec, a *Arm) {
	for _, o := range d.Options {
		level, decided := d.OwnLevels[o.Key]
		switch {
		case !decided:
		case s.Own == nil && a.Options[o.Key] == level && level != o.Allowed[0]:
			t.problem(o.Key, "%q is what arms have beside [[policy]], and there is none; write [[policy]] with file and inventory", level)
		case s.Own == nil:
		case t.has(o.Key) && a.Options[o.Key] != level:
			t.problem(o.Key, "is about generated policies, and [[policy]] in %s gives others; remove it", l.doc.line(l.doc.lines["policy"]))
		default:
			a.Options[o.Key] = level
		}
	}
}
