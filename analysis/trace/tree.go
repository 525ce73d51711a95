package trace

import (
	"cmp"
	"slices"
	"strings"
)

// Roles of threads: the names of the root's children, next to the names of other programs.
const (
	RoleClient = "client"
	RoleServer = "server"
	RoleHelper = "helper" // the guest helper
	RoleIdle   = "idle"
	RoleKernel = "kernel" // kernel threads
)

// Instructions is the sum of all nodes.
func (t Tree) Instructions() uint64 {
	var sum uint64
	for _, n := range t.Nodes {
		sum += n.Self
	}
	return sum
}

// totals are, for each node, its instructions with those of its callees.
func (t Tree) totals() []uint64 {
	out := make([]uint64, len(t.Nodes))
	for i := len(t.Nodes) - 1; i >= 0; i-- {
		out[i] += t.Nodes[i].Self
		if p := t.Nodes[i].Parent; p >= 0 {
			out[p] += out[i]
		}
	}
	return out
}

// stack is the names from the thread to a node; nil for the root.
func (t Tree) stack(i int) []string {
	var out []string
	for ; i >= 0 && t.Nodes[i].Parent >= 0; i = t.Nodes[i].Parent {
		out = append(out, t.Nodes[i].Name)
	}
	slices.Reverse(out)
	return out
}

// recursive reports whether a caller of a node has the node's name.
func (t Tree) recursive(i int) bool {
	name := t.Nodes[i].Name
	for p := t.Nodes[i].Parent; p > 0; p = t.Nodes[p].Parent {
		if t.Nodes[p].Name == name {
			return true
		}
	}
	return false
}

// Function is what one function costs in one layer. Most functions are in one layer; a lock, an
// allocation or a copy is in that of its callers.
type Function struct {
	Name  string
	Layer Layer
	Self  uint64 // instructions of the function itself
	Total uint64 // with what it called; of calls within a call of the same function only the outer
	Calls uint64
}

// Functions sums a tree by function and layer: the dearest by itself first. The sum of Self is
// that of the tree.
func (t Tree) Functions() []Function {
	type key struct {
		name  string
		layer Layer
	}
	at := map[key]int{}
	var out []Function
	layers, totals := t.layers(), t.totals()
	for i, n := range t.Nodes {
		if n.Parent < 0 && n.Self == 0 {
			continue
		}
		k := key{n.Name, layers[i]}
		j, known := at[k]
		if !known {
			j = len(out)
			at[k] = j
			out = append(out, Function{Name: n.Name, Layer: layers[i]})
		}
		f := &out[j]
		f.Self, f.Calls = f.Self+n.Self, f.Calls+n.Calls
		if !t.recursive(i) {
			f.Total += totals[i]
		}
	}
	slices.SortFunc(out, func(a, b Function) int {
		return cmp.Or(cmp.Compare(b.Self, a.Self), cmp.Compare(b.Total, a.Total), strings.Compare(a.Name, b.Name), strings.Compare(string(a.Layer), string(b.Layer)))
	})
	return out
}

// LayerCost is what one layer costs.
type LayerCost struct {
	Layer Layer  `json:"layer"`
	Self  uint64 `json:"self"`
}

// LayerCosts sums a tree by layer, in the order of Layers and without layers that cost nothing.
func (t Tree) LayerCosts() []LayerCost {
	sums := map[Layer]uint64{}
	for i, l := range t.layers() {
		sums[l] += t.Nodes[i].Self
	}
	var out []LayerCost
	for _, l := range Layers() {
		if sums[l] > 0 {
			out = append(out, LayerCost{l, sums[l]})
		}
	}
	return out
}

// PerUnit is a number of instructions or calls of Measured per unit.
func (t *Trace) PerUnit(n uint64) float64 {
	if t.Units <= 0 {
		return 0
	}
	return float64(n) / t.Units
}

// Factors that titles and files need by name.
const (
	factorScenario = "scenario"
	factorWorkload = "workload"
	factorArm      = "arm"
	factorPolicies = "policies"
	factorKernel   = "kernel"
)

// Title names the cell: "iptables at N = 100, TCP_RR, localhost".
func (t *Trace) Title() string {
	out := t.Arm()
	if n := t.Factors[factorPolicies]; n != "" {
		out += " at N = " + n
	}
	for _, f := range []string{factorWorkload, factorScenario} {
		if v := t.Factors[f]; v != "" {
			out += ", " + v
		}
	}
	return out
}

// Arm is the name of the cell's arm, or the cell's ID where it has none.
func (t *Trace) Arm() string { return cmp.Or(t.Factors[factorArm], t.Cell) }

// Off is by how many ns the clock differs from what the instructions and halts account for: 0 where
// the trace is exact.
func (w Window) Off() int64 {
	return int64(w.ClockNS - w.IdleNS - w.NSPerInstruction*w.Instructions)
}

// Exact reports whether the clock agrees with the instructions, over the window and between any
// two of its readings.
func (w Window) Exact() bool { return w.Off() == 0 && w.ClocksOff == 0 }
