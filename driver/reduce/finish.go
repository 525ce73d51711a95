package reduce

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/trace"
)

// Roles of threads that run none of the programs.
const (
	roleIdle    = "idle"
	roleKernel  = "kernel"
	roleClient  = "client"
	roleServer  = "server"
	roleUnknown = "unknown"
)

// role names a life.
func (r *Reducer) role(i int) string {
	l := &r.lives[i]
	switch {
	case l.idle:
		return roleIdle
	case l.program >= 0:
		f := &r.code.files[l.program]
		if f.Role == Ends {
			return r.end(i)
		}
		return cmp.Or(f.Role, f.Name)
	case l.wasUser:
		if l.parent >= 0 && l.parent < i {
			return r.role(l.parent)
		}
		return roleUnknown
	case l.kernel:
		return roleKernel
	}
	return roleUnknown
}

// end says which end of a connection a life is. A thread that a program made for the data neither
// connects nor accepts: it sends or receives.
func (r *Reducer) end(i int) string {
	l := &r.lives[i]
	const several = 8
	switch {
	case l.connects > 0 && l.accepts == 0:
		return roleClient
	case l.accepts > 0 && l.connects == 0:
		return roleServer
	case l.sends >= several && l.sends > l.receives:
		return roleClient
	case l.receives >= several && l.receives > l.sends:
		return roleServer
	case l.parent >= 0 && l.parent < i && r.lives[l.parent].program == l.program:
		return r.end(l.parent)
	}
	return r.code.files[l.program].Name
}

// finisher gives the nodes their final names and places.
type finisher struct {
	*Reducer
	place []int // of each node in whole; -1 if it is not there yet
	whole trace.Tree
	where map[placed]int
}

type placed struct {
	parent int
	name   string
}

// finish makes the trace, and says where it is not exact.
func (r *Reducer) finish() (*trace.Trace, error) {
	r.settle()
	f := &finisher{Reducer: r, where: map[placed]int{}, place: make([]int, len(r.tree.list))}
	f.whole.Nodes = []trace.Node{{Parent: -1}}
	for i := range f.place {
		f.place[i] = -1
	}
	f.place[0] = 0
	for i := range r.tree.list {
		f.at(int32(i))
	}
	var measured, around []tally
	measured, around = make([]tally, len(f.whole.Nodes)), make([]tally, len(f.whole.Nodes))
	t := &trace.Trace{Unit: r.cfg.Unit, Units: float64(r.units.number()) * r.cfg.Size}
	counted := uint64(0)
	for i, n := range r.tree.list {
		measured[f.place[i]].add(n.measured)
		around[f.place[i]].add(n.around)
		counted += n.measured.self + n.around.self
		t.Window.Measured += n.measured.self
	}
	a := &r.account
	t.Window.ClockNS, t.Window.IdleNS, t.Window.NSPerInstruction = a.end-a.begin, a.idle, a.rate
	t.Window.Instructions, t.Window.Blocks, t.Window.Faults = a.instructions, a.blocks, a.faults
	t.Window.Clocks, t.Window.ClocksOff = a.clocks, a.off
	t.Window.Unnamed = f.unnamed()
	t.Window.Misrooted, t.Window.Roots = f.misrooted()
	t.Client = f.client()
	t.Measured, t.Around = f.tree(measured), f.tree(around)
	t.Path = f.path()
	return t, a.check(counted)
}

// client is the part of the window that the row is computed of, and how many units it has.
func (f *finisher) client() trace.Span {
	from, to, ok := f.units.span()
	if f.cfg.Cut.From != "" {
		from, to, ok = f.server()
	}
	if !ok {
		return trace.Span{}
	}
	return trace.Span{
		ClockNS: to.ns - from.ns, IdleNS: to.idle - from.idle, Instructions: to.instructions - from.instructions,
		Units: float64(f.units.made) / float64(f.cfg.Cut.Every) * f.cfg.Size,
	}
}

// server is what the server itself measures; two that do would be one too many.
func (f *finisher) server() (from, to reading, ok bool) {
	for life, e := range f.span.found {
		if !e.whole || f.role(life) != roleServer {
			continue
		}
		if ok {
			return reading{}, reading{}, false
		}
		from, to, ok = e.from, e.to, true
	}
	return from, to, ok
}

// at returns the final place of a node.
func (f *finisher) at(i int32) int {
	if f.place[i] >= 0 {
		return f.place[i]
	}
	n := &f.Reducer.tree.list[i]
	switch into, ok := f.Reducer.tree.into[i]; {
	case ok:
		f.place[i] = f.at(into)
	case n.kind == ofUnknown:
		f.place[i] = f.at(n.parent)
	default:
		f.place[i] = f.child(f.at(n.parent), f.name(n))
	}
	return f.place[i]
}

func (f *finisher) name(n *node) string {
	if n.kind == ofThread {
		return f.role(int(n.sym))
	}
	return f.names[n.sym]
}

func (f *finisher) child(parent int, name string) int {
	key := placed{parent, name}
	p, ok := f.where[key]
	if !ok {
		p = len(f.whole.Nodes)
		f.whole.Nodes = append(f.whole.Nodes, trace.Node{Parent: parent, Name: name})
		f.where[key] = p
	}
	return p
}

// tree has the nodes that have a count, or a descendant that has one.
func (f *finisher) tree(counts []tally) trace.Tree {
	nodes := f.whole.Nodes
	used := make([]bool, len(nodes))
	used[0] = true
	for i := len(nodes) - 1; i > 0; i-- {
		if used[i] = used[i] || counts[i] != (tally{}); used[i] {
			used[nodes[i].Parent] = true
		}
	}
	index := make([]int, len(nodes))
	var out trace.Tree
	for i, n := range nodes {
		if !used[i] {
			continue
		}
		index[i] = len(out.Nodes)
		if n.Parent >= 0 {
			n.Parent = index[n.Parent]
		}
		n.Self, n.Calls = counts[i].self, counts[i].calls
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

// misrooted counts what was executed below callers that remained unknown, and says below which
// functions, the largest first.
func (f *finisher) misrooted() (sum uint64, roots []trace.Root) {
	list := f.Reducer.tree.list
	m := misrooter{f, make([]int32, len(list))}
	counts := map[trace.Root]uint64{}
	for i := range list {
		n := list[i].around.self + list[i].measured.self
		if root := m.root(int32(i)); root > 0 && n > 0 {
			sum += n
			counts[m.describe(root)] += n
		}
	}
	for r, n := range counts {
		r.Instructions = n
		roots = append(roots, r)
	}
	slices.SortFunc(roots, func(a, b trace.Root) int {
		return cmp.Or(cmp.Compare(b.Instructions, a.Instructions), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Role, b.Role))
	})
	return sum, roots[:min(len(roots), trace.MostRoots)]
}

// misrooter finds stacks that do not begin at an entry. A thread that waited when the window began,
// and does not return to its entry in it, has none above what was seen of it. Two kinds of them are
// known all the same: a kernel's thread entered the kernel when it was made, and never again; and some
// functions are called by the code of entries only.
type misrooter struct {
	*finisher
	known []int32 // by node, the result of root; 0 before it is known
}

// rooted is the result of root for stacks that begin at an entry.
const rooted = -1

// root is the outermost function that was seen of a stack with an unknown caller, as its node.
func (m *misrooter) root(i int32) int32 {
	n := &m.Reducer.tree.list[i]
	if m.known[i] != 0 {
		return m.known[i]
	}
	r := int32(rooted)
	switch into, ok := m.Reducer.tree.into[i]; {
	case n.kind == ofThread, n.parent < 0:
	case ok:
		r = m.root(into)
	case n.kind == ofUnknown:
		r = i
	default:
		if r = m.root(n.parent); r == rooted || m.Reducer.tree.list[r].kind != ofUnknown {
			break
		}
		if r = i; isFirst(m.names[n.sym]) || m.ofKernel(n.parent) {
			r = rooted
		}
	}
	m.known[i] = r
	return r
}

// thread returns the node of the thread that a node is of, nil if it has none.
func (m *misrooter) thread(i int32) *node {
	list := m.Reducer.tree.list
	for i >= 0 && list[i].kind != ofThread {
		i = list[i].parent
	}
	if i < 0 {
		return nil
	}
	return &list[i]
}

// ofKernel is true of nodes of the kernel's threads.
func (m *misrooter) ofKernel(i int32) bool {
	n := m.thread(i)
	if n == nil {
		return false
	}
	l := &m.lives[n.sym]
	return l.kernel && !l.wasUser
}

// describe names a root.
func (m *misrooter) describe(root int32) trace.Root {
	r := trace.Root{Role: roleUnknown, Name: roleUnknown}
	if n := m.thread(root); n != nil {
		r.Role = m.name(n)
	}
	if n := &m.Reducer.tree.list[root]; n.kind == ofCall {
		r.Name = m.name(n)
	}
	return r
}

// isFirst is true of functions that only the assembler of an entry calls (arch/x86/entry).
func isFirst(name string) bool {
	for _, p := range []string{"exc_", "sysvec_", "irqentry_exit", "syscall_exit_to_user_mode", "exit_to_user_mode"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	switch name {
	case "do_syscall_64", "common_interrupt", "ret_from_fork":
		return true
	}
	return false
}

// unnamed counts what was executed at addresses of no function and no program.
func (f *finisher) unnamed() (sum uint64) {
	for _, n := range f.Reducer.tree.list {
		if n.kind == ofCall && n.sym >= 0 && f.names[n.sym][0] == '[' {
			sum += n.around.self + n.measured.self
		}
	}
	return sum
}

// path is the most frequent one, and what the others do.
func (f *finisher) path() trace.Path {
	p := &f.units.paths
	out := trace.Path{Units: p.units, Paths: len(p.list)}
	best := p.best()
	for _, g := range p.list {
		if out.Least == 0 || g.least < out.Least {
			out.Least = g.least
		}
		out.Most = max(out.Most, g.most)
	}
	if best == nil {
		return out
	}
	out.Instructions, out.Same = best.length, best.units
	out.Calls = f.calls(best.steps)
	out.Others = f.others(best)
	return out
}

// open is a call that has not ended.
type open struct {
	place int
	call  *trace.Call
}

// calls makes the tree of a unit's steps.
func (f *finisher) calls(steps []step) []*trace.Call {
	root := &trace.Call{}
	at := uint64(0) // instructions so far
	stack := []open{{0, root}}
	var chain []int
	for _, s := range steps {
		chain = chain[:0]
		for p := f.place[s.node]; p > 0; p = f.whole.Nodes[p].Parent {
			chain = append(chain, p)
		}
		slices.Reverse(chain)
		k := 0
		for k < len(chain) && k+1 < len(stack) && stack[k+1].place == chain[k] {
			k++
		}
		if s.begins && k == len(chain) {
			k-- // another call of the function that just ran
		}
		stack = ended(stack, k+1, at)
		for ; k < len(chain); k++ {
			c := &trace.Call{Name: f.whole.Nodes[chain[k]].Name, Resumed: k > 0 && (k < len(chain)-1 || !s.begins), Begin: at}
			above := stack[len(stack)-1].call
			above.Calls = append(above.Calls, c)
			stack = append(stack, open{chain[k], c})
		}
		stack[len(stack)-1].call.Self += uint64(s.n)
		at += uint64(s.n)
	}
	ended(stack, 0, at)
	total(root)
	return root.Calls
}

// ended leaves the first n calls of a stack open, after so many instructions.
func ended(stack []open, n int, at uint64) []open {
	for _, o := range stack[n:] {
		o.call.End = at
	}
	return stack[:n]
}

func total(c *trace.Call) uint64 {
	c.Total = c.Self
	for _, k := range c.Calls {
		c.Total += total(k)
	}
	return c.Total
}

// mostOthers is how many variations a path has at the most.
const mostOthers = 20

// others says which functions units on other paths called more or less often.
func (f *finisher) others(best *path) []trace.Variation {
	usual := f.perUnit(best)
	at := map[string]int{}
	var out []trace.Variation
	for _, g := range f.units.paths.list {
		if g == best || g.counts == nil {
			continue
		}
		for _, d := range f.differences(usual, f.perUnit(g)) {
			i, ok := at[d.name]
			if !ok {
				i = len(out)
				at[d.name] = i
				out = append(out, trace.Variation{Name: d.name})
			}
			out[i].Units += g.units
			out[i].More += d.calls * float64(g.units)
			out[i].Cost += d.cost * float64(g.units)
		}
	}
	slices.SortStableFunc(out, func(a, b trace.Variation) int {
		return cmp.Or(cmp.Compare(math.Abs(b.Cost), math.Abs(a.Cost)), cmp.Compare(a.Name, b.Name))
	})
	out = out[:min(len(out), mostOthers)]
	for i := range out {
		out[i].More /= float64(out[i].Units)
		out[i].Cost /= float64(out[i].Units)
	}
	return out
}

// mean is what a node does in a unit; cost includes what it calls.
type mean struct{ calls, cost float64 }

// perUnit is what the nodes of a path do in one unit, in the mean, by place.
func (f *finisher) perUnit(g *path) []mean {
	out := make([]mean, len(f.whole.Nodes))
	for _, c := range g.counts {
		out[f.place[c.node]].calls += float64(c.calls) / float64(g.units)
		out[f.place[c.node]].cost += float64(c.self) / float64(g.units)
	}
	for i := len(out) - 1; i > 0; i-- {
		out[f.whole.Nodes[i].Parent].cost += out[i].cost
	}
	return out
}

// difference is what a function did more than usual.
type difference struct {
	name        string
	calls, cost float64
}

// differences compares two paths at the places nearest the root where the numbers of calls differ:
// what is called from there differs as a consequence.
func (f *finisher) differences(usual, other []mean) (out []difference) {
	below := make([]bool, len(usual))
	at := map[string]int{}
	for i := 1; i < len(usual); i++ {
		n := &f.whole.Nodes[i]
		if below[i] = below[n.Parent]; below[i] || usual[i].calls == other[i].calls {
			continue
		}
		below[i] = true
		k, ok := at[n.Name]
		if !ok {
			k = len(out)
			at[n.Name] = k
			out = append(out, difference{name: n.Name})
		}
		out[k].calls += other[i].calls - usual[i].calls
		out[k].cost += other[i].cost - usual[i].cost
	}
	return slices.DeleteFunc(out, func(d difference) bool { return d.calls == 0 })
}
