// Package trace is what a traced boot said about one cell: which functions executed how many
// instructions, in which stacks, and the path that one transaction took. It has the files of a
// trace, and what reports and figures are made from. Pure but for reading and writing these files.
package trace

import (
	"fmt"
	"strings"
)

// Trace is one cell's traced boot.
type Trace struct {
	Cell    string            `json:"cell"`    // the plan's ID of the cell
	Factors map[string]string `json:"factors"` // of the cell, as in plan.json
	Seed    int               `json:"seed"`

	// Unit is what costs are given per: "transaction", "connection", "MiB".
	Unit  string  `json:"unit"`
	Units float64 `json:"units"` // in Measured

	Window Window `json:"window"`
	// Client is the part of the window that the row is computed over, so that it holds more than
	// Measured: of netperf the client's time, from before it connects until the connection is closed;
	// of iperf3 the server's, in which it receives.
	Client Span `json:"client"`

	// Measured is the calls of whole units: from the beginning of the first unit in the window to
	// the end of the last. Around is the calls of the window before and after that: programs start,
	// connect and end.
	Measured Tree `json:"-"`
	Around   Tree `json:"-"`

	Path Path `json:"-"`

	// Drop is where a packet of the cell ends that its policies refuse; nil: that was not traced.
	Drop *Drop `json:"drop,omitempty"`
}

// Window is the traced part of the boot, from mark to mark, and how exact the account of it is.
type Window struct {
	// ClockNS is the difference of the guest's clock between the marks, in ns. Every instruction is
	// NSPerInstruction of it; the rest is IdleNS, time in which the CPU was halted.
	ClockNS          uint64 `json:"clock_ns"`
	IdleNS           uint64 `json:"idle_ns"`
	NSPerInstruction uint64 `json:"ns_per_instruction"`
	// Instructions is the sum of what every block executed: of Measured and of Around.
	Instructions uint64 `json:"instructions"`
	Measured     uint64 `json:"measured"`
	// Clocks is how many readings of the clock the guest made in the window. Between any two in a row
	// without a halt in between, the clock must have advanced by exactly NSPerInstruction for each
	// instruction; ClocksOff counts those where it did not.
	Clocks    uint64 `json:"clocks"`
	ClocksOff uint64 `json:"clocks_off"`

	Blocks    uint64 `json:"blocks"`    // translation blocks executed
	Faults    uint64 `json:"faults"`    // page faults and other exceptions
	Misrooted uint64 `json:"misrooted"` // instructions whose stack does not begin at an entry to the kernel
	Unnamed   uint64 `json:"unnamed"`   // instructions at addresses for which there is no symbol
	// Roots are where the misrooted stacks begin, the largest first, at most MostRoots of them.
	Roots []Root `json:"misrooted_roots,omitempty"`
}

// MostRoots is how many roots a window lists.
const MostRoots = 8

// Root is the function that a thread's misrooted stacks begin with.
type Root struct {
	Role         string `json:"role"`         // of the thread, as in Tree
	Name         string `json:"name"`         // function: the outermost that was seen
	Instructions uint64 `json:"instructions"` // of it and of what it called
}

// Misroots says which roots there are: "rcu_gp_kthread (kernel) 4711, ...".
func (w Window) Misroots() string {
	var parts []string
	for _, r := range w.Roots {
		parts = append(parts, fmt.Sprintf("%s (%s) %d", r.Name, r.Role, r.Instructions))
	}
	return strings.Join(parts, ", ")
}

// Span is a part of the window, from one reading of the clock by a program to another.
type Span struct {
	ClockNS      uint64  `json:"clock_ns"`
	IdleNS       uint64  `json:"idle_ns"`
	Instructions uint64  `json:"instructions"`
	Units        float64 `json:"units"` // that began, parts included; all are 0 where the readings are not known
}

// Tree is the calls of a window, merged by stack: a function called from one stack is one node,
// however often it was called. Nodes[0] is the root; its children are threads by role: "client",
// "server", "helper", "idle", "kernel" and the names of other programs. A parent comes before its
// children.
type Tree struct {
	Nodes []Node
}

// Node is one function in one stack.
type Node struct {
	Parent int    // index in Tree.Nodes; the root's is -1
	Name   string // function: "ipt_do_table", "bpf:hb_tc_ingress", "netperf:send_tcp_rr"
	Self   uint64 // instructions of the function itself
	Calls  uint64 // how often it began
}

// Path is the ordered calls of one unit: the one whose path was taken most often.
type Path struct {
	Instructions uint64 // of this unit
	Units        int    // whole units that were compared
	Same         int    // how many of them took exactly this path
	Paths        int    // different paths among them
	Least, Most  uint64 // instructions of the cheapest and the dearest unit
	Others       []Variation
	Calls        []*Call // in order of time; the first level are threads by role
}

// Call is one call of one function on the path.
type Call struct {
	Name  string
	Self  uint64
	Total uint64 // with what it called, and with interrupts while it ran
	// Begin and End are how many instructions of the unit came before the call, and before what follows
	// it. A call that gave way to another thread ends there and goes on as another Call. 0 in what is
	// read from files.
	Begin, End uint64
	// Resumed says that the call had begun before: the thread gave way to another one in it, and goes on.
	Resumed bool
	Calls   []*Call
}

// Variation is a function that units on other paths called in addition, or less often.
type Variation struct {
	Name  string  `json:"name"`
	Units int     `json:"units"`        // in how many of the other units its number of calls differs
	More  float64 `json:"calls"`        // calls more (or less) in these units, mean
	Cost  float64 `json:"instructions"` // instructions more in these units, its callees included, mean
}

// Units' names.
const (
	UnitTransaction = "transaction"
	UnitConnection  = "connection"
	UnitMiB         = "MiB"
)
