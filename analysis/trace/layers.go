package trace

import (
	"slices"
	"strings"
)

// Layer is a part of the way that a packet takes, under the name that files and tables have for it.
type Layer string

// The layers, in the order of Layers.
const (
	LayerClient      Layer = "client program"
	LayerServer      Layer = "server program"
	LayerPrograms    Layer = "other programs"
	LayerSyscall     Layer = "system calls" // entry, exit, files
	LayerCopy        Layer = "copy"         // to and from user space
	LayerSocket      Layer = "socket"
	LayerTCP         Layer = "TCP"
	LayerIP          Layer = "IP" // IP, routing, neighbours, UDP
	LayerNetfilter   Layer = "netfilter core"
	LayerConntrack   Layer = "conntrack" // and NAT
	LayerIptables    Layer = "iptables rules"
	LayerNftables    Layer = "nftables rules"
	LayerIPSet       Layer = "ipset"
	LayerBPF         Layer = "BPF programs" // with maps and helpers
	LayerTC          Layer = "tc"           // clsact and tcx
	LayerXDP         Layer = "XDP"          // native on veth, and generic
	LayerBridge      Layer = "bridge"
	LayerVeth        Layer = "veth"
	LayerOverlay     Layer = "VXLAN"
	LayerOVS         Layer = "Open vSwitch"
	LayerQdisc       Layer = "qdisc and transmit"
	LayerSoftirq     Layer = "softirq" // and NAPI
	LayerGRO         Layer = "GRO and GSO"
	LayerSKB         Layer = "packet memory"
	LayerWakeup      Layer = "wake-up and scheduler"
	LayerTimers      Layer = "timers"
	LayerInterrupts  Layer = "interrupts" // and exceptions
	LayerMemory      Layer = "memory"
	LayerHousekeeper Layer = "RCU and kernel threads"
	LayerIdle        Layer = "idle"
	LayerOther       Layer = "other"
)

// Layers are all layers, from the programs down to the device and back up.
func Layers() []Layer {
	return []Layer{LayerClient, LayerServer, LayerPrograms, LayerSyscall, LayerCopy, LayerSocket, LayerTCP, LayerIP,
		LayerNetfilter, LayerConntrack, LayerIptables, LayerNftables, LayerIPSet, LayerBPF, LayerTC, LayerXDP,
		LayerBridge, LayerVeth, LayerOverlay, LayerOVS, LayerQdisc, LayerSoftirq, LayerGRO, LayerSKB,
		LayerWakeup, LayerTimers, LayerInterrupts, LayerMemory, LayerHousekeeper, LayerIdle, LayerOther}
}

// LayerOf is the layer of the last function of a stack, which begins with the thread's role. It is
// that of the innermost caller, the function included, that the table has; so a lock taken by the
// bridge is the bridge's. A user program is the layer of its thread.
func LayerOf(stack []string) Layer {
	n, at := newLayerNamer(), place{layer: LayerOther}
	for i, name := range stack {
		at = n.next(at, i, name)
	}
	return at.layer
}

// layers are those of each node.
func (t Tree) layers() []Layer {
	namer, at, depth := newLayerNamer(), make([]place, len(t.Nodes)), make([]int, len(t.Nodes))
	out := make([]Layer, len(t.Nodes))
	for i, n := range t.Nodes {
		if n.Parent < 0 {
			at[i], depth[i] = place{layer: LayerOther}, -1
		} else {
			depth[i] = depth[n.Parent] + 1
			at[i] = namer.next(at[n.Parent], depth[i], n.Name)
		}
		out[i] = at[i].layer
	}
	return out
}

// place is where a call is on a stack.
type place struct {
	layer  Layer
	user   Layer // of the thread's program
	inside bool  // the kernel
}

// layerNamer finds layers by name.
type layerNamer struct {
	exact    map[string]layerRule
	prefixes map[string]layerRule
	longest  int // prefix
	seen     map[string]layerRule
}

// layerRule is a line of the table for one name.
type layerRule struct {
	layer Layer
	keep  []Layer // of a caller: the function is in this one, too
	only  []Layer // of a caller: the rule holds below these only
}

func newLayerNamer() *layerNamer {
	n := &layerNamer{exact: map[string]layerRule{}, prefixes: map[string]layerRule{}, seen: map[string]layerRule{}}
	for _, line := range layerTable() {
		for _, name := range strings.Fields(line.names) {
			prefix, any := strings.CutSuffix(name, "*")
			if !any {
				n.exact[name] = line.layerRule
				continue
			}
			n.prefixes[prefix], n.longest = line.layerRule, max(n.longest, len(prefix))
		}
	}
	return n
}

// plainName is a kernel function without the compiler's suffix and the module: "tcp_ack" of
// "tcp_ack.isra.0" and of "tcp_ack [tcp]".
func plainName(name string) string {
	if i := strings.IndexAny(name, ". "); i > 0 {
		name = name[:i]
	}
	return strings.TrimPrefix(name, "__pfx_")
}

// rule is the table's for a name: the exact one, else that of the longest prefix. Its layer is ""
// where there is none.
func (n *layerNamer) rule(name string) layerRule {
	if r, ok := n.seen[name]; ok {
		return r
	}
	plain := plainName(name)
	r, ok := n.exact[plain]
	for size := min(n.longest, len(plain)); !ok && size > 0; size-- {
		r, ok = n.prefixes[plain[:size]]
	}
	n.seen[name] = r
	return r
}

// inProgram reports whether a name is that of a function of a user program: "netperf:send_tcp_rr".
func inProgram(name string) bool {
	return strings.Contains(name, ":") && !strings.HasPrefix(name, bpfPrefix)
}

// bpfPrefix begins the names of BPF programs.
const bpfPrefix = "bpf:"

// next is the place of a call from a place; depth 0 is the thread itself.
func (n *layerNamer) next(from place, depth int, name string) place {
	if depth == 0 {
		return roleOf(name)
	}
	if inProgram(name) && !from.inside {
		return from
	}
	r, to := n.rule(name), place{from.layer, from.user, true}
	known := r.layer != "" && (len(r.only) == 0 || slices.Contains(r.only, from.layer)) && !slices.Contains(r.keep, from.layer)
	switch {
	case known:
		to.layer = r.layer
	case !from.inside && from.user != "":
		to.layer = LayerOther // the first function in the kernel, of no known kind
	}
	return to
}

// roleOf is the place of a thread. Kernel threads and the idle loop have no program.
func roleOf(name string) place {
	switch name {
	case RoleClient:
		return place{layer: LayerClient, user: LayerClient}
	case RoleServer:
		return place{layer: LayerServer, user: LayerServer}
	case RoleIdle:
		return place{layer: LayerIdle, inside: true}
	case RoleKernel:
		return place{layer: LayerHousekeeper, inside: true}
	}
	return place{layer: LayerPrograms, user: LayerPrograms}
}
