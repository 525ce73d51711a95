package datapath

import (
	"hookbed/bpf"
	"hookbed/driver/bundle"
)

// xdpFilter loads an XDP program where the option "where" says. The structure
// that passes everything is the control.
func (r *renderer) xdpFilter(s bpf.Structure) error {
	at := r.edge()
	program, vars := bpf.ProgXDPPass, map[string]string{}
	if s != bpf.StructurePass {
		program, vars = bpf.ProgXDP, r.policyVars(s)
		vars[bpf.VarEnforce] = onOff(r.policies.size() > 0)
		r.endpointVars(vars)
	}
	tables := bpf.XDPTables(s, r.Topology.IPv6)
	load := bundle.LoadBPF{
		Handle: xdpHandle(at.node), Object: r.file("xdp.bpf.o", bpf.XDPObject()), Programs: []string{program}, Vars: vars,
		MaxEntries: r.mapSizes(tables), Tables: tables, Prealloc: r.cell.Get(optPrealloc) == preallocOn,
	}
	r.apply(at.node, "", load)
	if err := r.fillPolicies(at.node, load.Handle, s, xdpTables()); err != nil {
		return err
	}
	hook := bundle.HookXDPNative
	if r.cell.Get(optAttach) == attachGeneric {
		hook = bundle.HookXDPGeneric
	}
	r.apply(at.node, at.in, bundle.AttachBPF{Handle: load.Handle, Program: program, Link: at.link, Hook: hook})
	mode := bundle.XDPNative
	if hook == bundle.HookXDPGeneric {
		mode = bundle.XDPGeneric
	}
	r.guard(at.node, at.in, bundle.Guard{Link: at.link, XDP: mode, Program: program, Handle: load.Handle})
	return nil
}
