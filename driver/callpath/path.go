package callpath

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/trace"
)

// Roles of threads, as in trace.Tree.
const (
	roleClient = "client"
	roleServer = "server"
	roleIdle   = "idle"
	roleKernel = "kernel" // ksoftirqd
)

// Cut says how the calls of one node are cut into units.
type Cut struct {
	// Client is the PID of the client, 0 if it is not on this node.
	Client int
	// Server is the name of the server's program.
	Server string
	// Idle: the idle tasks are a part of the path. Else what is theirs is left out, as is that of
	// other tasks: at a switch to a recorded task the tracer has some calls of the one before.
	Idle bool
	// At are functions of which each call, in the thread that is Of, begins a unit.
	At []string
	Of string // "client" or "server"
	// OtherAt are those that begin a turn of the other thread's loop.
	OtherAt []string
}

// unit is a part of a recording.
type unit struct {
	window []event // of all threads, from its beginning to that of the next
	// compared are the events of one turn of each thread's own loop, one thread after the other.
	// When a thread is switched to is the scheduler's, so a window may have a part of the turn
	// before, or not.
	compared []event
}

// ReadPath reads what the tracer recorded of one node into the path of one unit: that which was
// taken most often. It has the order of calls and nothing else: Self and Total are 0 everywhere.
// Work in interrupts that has nothing to do with packets is left out, and units are compared
// without what the scheduler decides.
func ReadPath(r io.Reader, how Cut) (trace.Path, error) {
	events, err := readEvents(r)
	if err != nil {
		return trace.Path{}, err
	}
	units := how.units(withoutAsides(how.ofFlow(events)))
	if len(units) == 0 {
		return trace.Path{}, fmt.Errorf("function_graph has no whole unit: two calls of %s by the %s bound one", strings.Join(how.At, " or "), how.Of)
	}
	return how.path(units)
}

// taskLength is how much of a task's name the tracer prints.
const taskLength = 7

// role is that of an event's thread, "" if it is no part of the path.
func (c Cut) role(e event) string {
	switch {
	case e.pid == Idle && c.Idle:
		return roleIdle
	case e.pid == Idle:
		return ""
	case e.pid == c.Client:
		return roleClient
	case e.softirqd():
		return roleKernel
	case c.Server != "" && e.task == c.Server[:min(len(c.Server), taskLength)]:
		return roleServer
	}
	return ""
}

// softirqd says whether an event is of the thread that does softirqs when there are too many. Before
// Linux 6.5 it does all of a CPU's while it is awake (ksoftirqd_running in kernel/softirq.c).
func (e event) softirqd() bool { return e.task == "ksoftir" }

// ofFlow are the events of the threads that are a part of the path.
func (c Cut) ofFlow(events []event) []event {
	return slices.DeleteFunc(events, func(e event) bool { return c.role(e) == "" })
}

// units cuts the events of all threads where a call in which one of At is made begins at the top of
// the thread. What is before the first and after the last is in none. Of those units only the ones
// are returned that consist of the system calls most of them consist of: others are programs that
// connect or report.
func (c Cut) units(events []event) []unit {
	var all []unit
	begins, others := c.begins(events, c.Of, c.At), c.begins(events, c.other(), c.OtherAt)
	kinds := map[string]int{}
	for i := 1; i < len(begins); i++ {
		from, to := begins[i-1], begins[i]
		u := unit{window: events[from:to], compared: c.of(events[from:to], c.Of)}
		for k, at := range others {
			if at >= from && at < to && k+1 < len(others) {
				u.compared = append(u.compared, c.of(events[at:others[k+1]], c.other())...)
			}
		}
		all = append(all, u)
		kinds[c.systemCalls(u)]++
	}
	usual := mostFrequent(kinds)
	return slices.DeleteFunc(all, func(u unit) bool { return c.systemCalls(u) != usual })
}

// begins are the events with which turns of a role's loop begin.
func (c Cut) begins(events []event, role string, at []string) (out []int) {
	for i, e := range events {
		if !slices.Contains(at, e.name) || c.role(e) != role {
			continue
		}
		if top := topOf(events, i); len(out) == 0 || top > out[len(out)-1] {
			out = append(out, top)
		}
	}
	return out
}

// other is the thread of the flow that is not Of.
func (c Cut) other() string {
	if c.Of == roleClient {
		return roleServer
	}
	return roleClient
}

// of are the events of a role.
func (c Cut) of(events []event, role string) (out []event) {
	for _, e := range events {
		if c.role(e) == role {
			out = append(out, e)
		}
	}
	return out
}

// topOf is the event at which the outermost function of event i began.
func topOf(events []event, i int) int {
	for k := i - 1; k >= 0; k-- {
		if events[k].pid == events[i].pid && len(events[k].above) == 0 {
			return k
		}
	}
	return i
}

// systemCalls names the system calls that begin in a unit, in the thread by which it was cut.
func (c Cut) systemCalls(u unit) string {
	var names []string
	for _, e := range u.window {
		if c.role(e) == c.Of && len(e.above) <= 1 && (strings.HasPrefix(e.name, "__x64_sys_") || strings.HasPrefix(e.name, "__arm64_sys_")) {
			names = append(names, e.name)
		}
	}
	return strings.Join(names, " ")
}

// mostFrequent is the key with the largest number, the first by name of several.
func mostFrequent(counts map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}

// ofPackets are functions of interrupts and softirqs that move packets.
func ofPackets() []string {
	return []string{"net_rx_action", "net_tx_action", "__napi_poll", "process_backlog", "netif_rx", "napi_schedule"}
}

// aside says whether a function begins what is no part of a packet's way: an interrupt, or the work
// of the tracer itself, which follows the switches of tasks.
func aside(name string) bool {
	switch name {
	case "irq_enter_rcu", "irq_exit_rcu", "irq_enter", "irq_exit", "__common_interrupt", "common_interrupt":
		return true
	}
	for _, prefix := range []string{"__sysvec_", "sysvec_", "smp_apic_", "__traceiter_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// withoutAsides leaves out what interrupts and the tracer call, unless packets are moved there.
func withoutAsides(events []event) []event {
	drop := make([]bool, len(events))
	open := map[int]interrupt{} // by PID: that which runs
	for i, e := range events {
		at, in := open[e.pid]
		if in && len(e.above) <= at.depth {
			delete(open, e.pid)
			in = false
		}
		if !in && (aside(e.name) || e.softirqd() && len(e.above) == 0) {
			at, in = interrupt{depth: len(e.above)}, true
		}
		if !in {
			continue
		}
		at.events = append(at.events, i)
		at.packets = at.packets || slices.Contains(ofPackets(), e.name)
		open[e.pid] = at
		for _, k := range at.events { // also those that were kept or dropped before
			drop[k] = !at.packets
		}
	}
	var out []event
	for i, e := range events {
		if !drop[i] {
			out = append(out, e)
		}
	}
	return out
}

// interrupt is a call of a function that is aside, with all that it calls.
type interrupt struct {
	depth   int
	events  []int
	packets bool
}

// path compares units and builds that of the most frequent shape. Of several shapes that are as
// frequent it takes the one whose numbers of calls are nearest to those of all units: on the wall
// clock the scheduler may do something else in every one.
func (c Cut) path(units []unit) (trace.Path, error) {
	shapes := map[string][]int{}
	for i, u := range units {
		s := c.shape(u)
		shapes[s] = append(shapes[s], i)
	}
	usual, least := -1, 0
	for i, u := range units {
		same := shapes[c.shape(u)]
		if same[0] != i {
			continue
		}
		far := distance(u, units)
		if usual < 0 || len(same) > len(shapes[c.shape(units[usual])]) || len(same) == len(shapes[c.shape(units[usual])]) && far < least {
			usual, least = i, far
		}
	}
	of := units[usual]
	calls := c.tree(of.window)
	if len(calls) == 0 {
		return trace.Path{}, errors.New("function_graph has a unit without a call")
	}
	return trace.Path{Units: len(units), Same: len(shapes[c.shape(of)]), Paths: len(shapes), Others: c.variations(units, of), Calls: calls}, nil
}

// distance is by how many calls a unit differs from others, in all.
func distance(u unit, others []unit) int {
	own, sum := countNames(u), 0
	for _, o := range others {
		counts := countNames(o)
		for name, n := range own {
			sum += abs(n - counts[name])
		}
		for name, n := range counts {
			if _, both := own[name]; !both {
				sum += n
			}
		}
	}
	return sum
}

func abs(n int) int { return max(n, -n) }

// scheduling are functions below which the scheduler decides. On the wall clock that depends on
// what else has run, so units are compared without it.
func scheduling() []string {
	return []string{"schedule", "__schedule", "preempt_schedule", "preempt_schedule_common", "preempt_schedule_irq", "try_to_wake_up"}
}

// scheduled says whether an event is below such a function.
func (e event) scheduled() bool {
	return slices.ContainsFunc(e.above, func(name string) bool { return slices.Contains(scheduling(), name) })
}

// shape is what is compared of a unit, as one text.
func (c Cut) shape(u unit) string {
	var b strings.Builder
	for _, e := range u.compared {
		if !e.scheduled() {
			fmt.Fprintf(&b, "%s %d%s\n", c.role(e), len(e.above), e.name)
		}
	}
	return b.String()
}

// segments are the runs of one thread on one CPU, in the order in which they begin.
func segments(window []event) [][]event {
	var out [][]event
	at := map[int]int{} // by CPU: index in out of what runs there
	for _, e := range window {
		k, running := at[e.cpu]
		if !running || out[k][0].pid != e.pid {
			k = len(out)
			at[e.cpu] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], e)
	}
	return out
}

// tree builds the calls of a unit: on the first level a node for each segment, by role. Functions
// that go on in a segment and began before are there again, as resumed.
func (c Cut) tree(window []event) []*trace.Call {
	var out []*trace.Call
	for _, s := range segments(window) {
		root := &trace.Call{Name: c.role(s[0])}
		stack := []*trace.Call{root}
		for _, name := range s[0].above {
			stack = append(stack, add(stack[len(stack)-1], name, true))
		}
		for _, e := range s {
			stack = stack[:min(len(stack), len(e.above)+1)]
			for len(stack) <= len(e.above) {
				stack = append(stack, add(stack[len(stack)-1], e.above[len(stack)-1], true))
			}
			stack = append(stack, add(stack[len(stack)-1], e.name, false))
		}
		out = append(out, root)
	}
	return out
}

func add(to *trace.Call, name string, resumed bool) *trace.Call {
	c := &trace.Call{Name: name, Resumed: resumed}
	to.Calls = append(to.Calls, c)
	return c
}

// variations are the functions that units of other shapes called more often, or less, most units
// first.
func (c Cut) variations(units []unit, of unit) []trace.Variation {
	base, usual := countNames(of), c.shape(of)
	type sum struct {
		units int
		more  int
	}
	sums := map[string]sum{}
	for _, u := range units {
		if c.shape(u) == usual {
			continue
		}
		counts := countNames(u)
		for name := range base {
			counts[name] += 0
		}
		for name, n := range counts {
			if more := n - base[name]; more != 0 {
				sums[name] = sum{sums[name].units + 1, sums[name].more + more}
			}
		}
	}
	var out []trace.Variation
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		s := sums[name]
		out = append(out, trace.Variation{Name: name, Units: s.units, More: float64(s.more) / float64(s.units)})
	}
	slices.SortStableFunc(out, func(a, b trace.Variation) int {
		return cmp.Or(cmp.Compare(b.Units, a.Units), cmp.Compare(math.Abs(b.More), math.Abs(a.More)))
	})
	return out
}

func countNames(u unit) map[string]int {
	counts := map[string]int{}
	for _, e := range u.compared {
		if !e.scheduled() {
			counts[e.name]++
		}
	}
	return counts
}
