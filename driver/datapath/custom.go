package datapath

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// The user's own filter: scripts, or one BPF object.
const (
	filterCustom = "custom"

	keyApply    = "apply"
	keyRemove   = "remove"
	keyCounters = "counters"
	keyObject   = "object"
	keyProgram  = "program"
	keyLink     = "link"

	optIn      = "in"
	optEntries = "entries"

	inServer    = "server"
	inNode      = "node"
	entriesNone = "none"
	entriesList = "linear"
	entriesHash = "hash"
	entriesTrie = "lpm"
)

func customFilter() filter {
	return filter{
		name: filterCustom, inside: true, render: renderCustom, nature: nature{hook: "what its scripts use, or tc or XDP, as option " + optHook + " says"},
		doc: "the user's own scripts or BPF object; proven by the same probes, and by the counters that it has to have",
		keys: []plan.FreeKey{
			{Key: keyApply, File: true, Script: true, Doc: "script that puts the filter in force"},
			{Key: keyRemove, File: true, Script: true, Doc: "script that takes it away"},
			{Key: keyCounters, File: true, Script: true, Doc: "script that prints packets, bytes, dropped, accepted and entries as one JSON object"},
			{Key: keyObject, File: true, Doc: "BPF object instead of scripts, with a map \"stats\" as bpf/headers/stats.h has it"},
			{Key: keyProgram, Doc: "the object's program"},
			{Key: keyLink, Doc: "link that the scripts are told and the program is attached to; default: the server's eth0, or the node's end of it"},
		},
		options: slices.Concat(policyOptions(), []plan.Option{
			{Key: optIn, Allowed: []string{inServer, inNode}, Doc: "network namespace: the server's, or its node's"},
			{Key: optHook, Allowed: []string{bundle.HookTCIngress, bundle.HookTCEgress, bundle.HookTCXIngress, bundle.HookTCXEgress, bundle.HookXDPNative, bundle.HookXDPGeneric},
				Since: map[string]string{bundle.HookTCXIngress: "6.6", bundle.HookTCXEgress: "6.6"}, Doc: "where the object's program is attached"},
			{Key: optEntries, Allowed: []string{entriesNone, entriesList, entriesHash, entriesTrie}, Doc: "fill the object's maps with the policies as the structure of that name has them (docs/bpf.md)"},
		}),
		refuse: refuseFirst(refuseMatch, refuseCustom), inspect: inspectCustom,
	}
}

// inspectCustom looks into the user's object.
func inspectCustom(s plan.Spec, a plan.Arm) []plan.Finding {
	object, is := a.Files[keyObject]
	if !is {
		return nil
	}
	hook := a.Options[optHook]
	d := bpf.Demand{Program: a.Options[keyProgram], XDP: hook == bundle.HookXDPNative || hook == bundle.HookXDPGeneric, Tables: map[string]uint32{}}
	if structure, fills := structures()[a.Options[optEntries]]; fills {
		tables := bpf.TCTables
		if d.XDP {
			tables = bpf.XDPTables
		}
		for _, name := range tables(structure, a.Options[optFamily] == familyIPv6) {
			d.Tables[name] = roomOf(name, s, a)
		}
	}
	var out []plan.Finding
	for _, f := range bpf.Inspect(object.Data, d) {
		// Whatever is missing is missing in the object, whose name goes with it.
		out = append(out, plan.Finding{Key: map[string]string{bpf.FaultProgram: keyProgram, bpf.FaultType: optHook}[f.About], File: keyObject, What: f.What})
	}
	return out
}

// structures are those that the user's maps can be filled as.
func structures() map[string]bpf.Structure {
	return map[string]bpf.Structure{entriesList: bpf.StructureLinear, entriesHash: bpf.StructureHash, entriesTrie: bpf.StructureLPM}
}

// roomOf is how many entries of a map the experiment can want: of its policies,
// the control connections and the update.
func roomOf(name string, s plan.Spec, a plan.Arm) uint32 {
	room := slices.Max(slices.Concat([]int{0}, s.Policies)) + 1
	if a.Options[optAction] != actionDeny && a.Options[optPolicy] != policyL3 {
		room += slices.Max(slices.Concat([]int{1}, s.Clients))
	}
	if name == bpf.MapListMatch || name == bpf.MapListMatch6 {
		room = (room + bpf.ListBlock - 1) / bpf.ListBlock
	}
	return uint32(room)
}

func refuseCustom(_ plan.Lab, fa fabric, _ string, o map[string]string) string {
	switch {
	case (o[keyApply] == "") == (o[keyObject] == ""):
		return fmt.Sprintf("it is scripts or an object; write either %s = \"FILE\" or %s = \"FILE\"", keyApply, keyObject)
	case o[keyApply] != "" && o[keyCounters] == "":
		return fmt.Sprintf("a filter whose packets nobody counts proves nothing; write %s = \"FILE\"", keyCounters)
	case o[keyApply] != "" && o[optIn] == inNode && o[keyRemove] == "":
		return fmt.Sprintf("the node outlives the setup, and keeps what a script did to it; write %s = \"FILE\"", keyRemove)
	case o[keyApply] != "" && o[keyProgram]+strings.TrimPrefix(o[optEntries], entriesNone) != "":
		return fmt.Sprintf("%s and %s are about an object; remove them", keyProgram, optEntries)
	case o[keyObject] != "" && o[keyProgram] == "":
		return fmt.Sprintf("an object may have several programs; write %s = \"NAME\"", keyProgram)
	case o[keyObject] != "" && o[keyRemove]+o[keyCounters] != "":
		return fmt.Sprintf("an object is detached and its map \"stats\" read without scripts; remove %s and %s", keyRemove, keyCounters)
	case fa.bare && o[optIn] == inNode:
		return fmt.Sprintf("on fabric %q no packet meets the node; write in = %q", fa.name, inServer)
	}
	return ""
}

// renderCustom renders the user's filter. With no policies there is none.
func renderCustom(r *renderer) error {
	if r.policies.size() == 0 {
		return nil
	}
	c := custom{r: r, node: r.Topology.Server.Node, in: Server, link: endpointLink}
	if r.cell.Get(optIn) == inNode {
		c.in, c.link = "", r.Topology.Server.PeerLink()
	}
	if l := r.cell.Get(keyLink); l != "" {
		c.link = l
	}
	if _, ok := r.cell.Files[keyObject]; ok {
		return c.object()
	}
	return c.scripts()
}

// custom is where the user's filter goes.
type custom struct {
	r        *renderer
	node     Node
	in, link string
}

func (c custom) scripts() error {
	r := c.r
	for _, key := range []string{keyApply, keyCounters} {
		if _, ok := r.cell.Files[key]; !ok {
			return fmt.Errorf("filter %q has no file %q", filterCustom, key)
		}
	}
	policies := r.file(customPolicies, []byte(policiesCSV(r.installed())))
	program := func(key string) *bundle.Program {
		f, ok := r.cell.Files[key]
		if !ok {
			return nil
		}
		name := r.file("custom-"+key, f.Data)
		return &bundle.Program{Script: name, Files: []string{policies}, Env: c.environment()}
	}
	r.apply(c.node, c.in, bundle.Tool{Do: *program(keyApply), Undo: program(keyRemove)})
	r.Hook = &Hook{Node: c.node.Name, In: c.in, From: bundle.Counter{Script: program(keyCounters)}}
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("entries that %s reports for %d policies", r.cell.Files[keyCounters].Path, r.policies.size()),
		Key:  bundle.CountEntries, Op: bundle.Equal, Value: uint64(len(r.installed())),
	})
	return nil
}

// customPolicies is the name of the policies' file in the script's directory.
const customPolicies = "policies.csv"

// environment is what the user's scripts get in their environment.
func (c custom) environment() map[string]string {
	t, otherwise := c.r.Topology, "deny"
	if c.r.policies.deny {
		otherwise = "allow"
	}
	return map[string]string{
		"HOOKBED_N": strconv.Itoa(c.r.policies.size()), "HOOKBED_CLIENT": t.Client.Addr.String(), "HOOKBED_SERVER": t.Server.Addr.String(),
		"HOOKBED_PORT": strconv.Itoa(c.r.Topology.Client.Port), "HOOKBED_POLICIES": "{dir}/" + customPolicies, "HOOKBED_LINK": "{name:" + c.link + "}",
		"HOOKBED_FAMILY": c.r.cell.Get(optFamily), "HOOKBED_DEFAULT": otherwise,
	}
}

// policiesCSV is what the user's scripts read: a policy a line, in the order of
// a list. The source is a prefix, port 0 and protocol "any" are every one.
func policiesCSV(ps []bpf.Policy) string {
	var b strings.Builder
	b.WriteString("source,port,protocol,action\n")
	for _, p := range ps {
		protocol, action := "any", actionAllow
		if name := protocolName(p.Proto); name != "" {
			protocol = name
		}
		if p.Deny {
			action = actionDeny
		}
		fmt.Fprintf(&b, "%s,%d,%s,%s\n", p.Source, p.Port, protocol, action)
	}
	return b.String()
}

// object loads and attaches the user's program, and fills its maps if they are
// laid out as hookbed's.
func (c custom) object() error {
	r := c.r
	handle, hook := filterCustom+"@"+c.node.Name, r.cell.Get(optHook)
	object := r.file("custom.bpf.o", r.cell.Files[keyObject].Data)
	r.apply(c.node, "", bundle.LoadBPF{Handle: handle, Object: object, Programs: []string{r.cell.Get(keyProgram)}})
	if entries := r.cell.Get(optEntries); entries != entriesNone {
		to := tcTables()
		if hook == bundle.HookXDPNative || hook == bundle.HookXDPGeneric {
			to = xdpTables()
		}
		if err := r.fillPolicies(c.node, handle, structures()[entries], to); err != nil {
			return err
		}
	}
	r.guard(c.node, "", bundle.Guard{Handle: handle, JIT: true})
	if r.Hook == nil {
		r.Hook = &Hook{Node: c.node.Name, From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: handle, Stats: bpf.MapStats}}}
	}
	r.apply(c.node, c.in, bundle.AttachBPF{Handle: handle, Program: r.cell.Get(keyProgram), Link: c.link, Hook: hook})
	return nil
}
