package datapath

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

	"hookbed/bpf"
	"hookbed/driver/bundle"
)

func controlHandle(n Node) string { return "control@" + n.Name }

// controlFilter attaches the positive control where packets enter the server,
// inside its namespace in either scenario: it passes every packet and costs a
// known number of instructions.
func controlFilter(r *renderer) error {
	spin, err := strconv.ParseUint(r.cell.Get(optSpin), 10, 32)
	if err != nil {
		return fmt.Errorf("option %s: %w", optSpin, err)
	}
	node := r.Topology.Server.Node
	r.apply(node, "", bundle.LoadBPF{
		Handle: controlHandle(node), Object: r.file("control.bpf.o", bpf.ControlObject()), Programs: []string{bpf.ProgControl},
		Vars: map[string]string{bpf.VarSpin: hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, uint32(spin)))},
	})
	r.apply(node, Server, bundle.AttachBPF{Handle: controlHandle(node), Program: bpf.ProgControl, Link: endpointLink, Hook: bundle.HookTCIngress})
	r.guard(node, "", bundle.Guard{Handle: controlHandle(node), JIT: true})
	r.Hook = &Hook{Node: node.Name, From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: controlHandle(node), Stats: bpf.MapStats}}}
	known := bpf.ControlInstructions(int(spin))
	r.KnownInstructions = &known
	return nil
}
