package reduce

import "slices"

// count is what a node executed.
type count struct {
	node int32
	tally
}

// tallies are counts by node.
type tallies struct {
	of      []tally
	touched []int32 // nodes with a count, in the order in which they were first there
}

func (t *tallies) add(node int32, c tally) {
	if int(node) >= len(t.of) {
		t.of = append(t.of, make([]tally, int(node)+1-len(t.of))...)
	}
	if t.of[node] == (tally{}) {
		t.touched = append(t.touched, node)
	}
	t.of[node].add(c)
}

func (t *tallies) steps(list []step) {
	for _, s := range list {
		c := tally{self: uint64(s.n)}
		if s.begins {
			c.calls = 1
		}
		t.add(s.node, c)
	}
}

func (t *tallies) counts(list []count) {
	for _, c := range list {
		t.add(c.node, c.tally)
	}
}

func (t *tallies) clear() {
	for _, node := range t.touched {
		t.of[node] = tally{}
	}
	t.touched = t.touched[:0]
}

// list returns the counts.
func (t *tallies) list() []count {
	out := make([]count, len(t.touched))
	for i, node := range t.touched {
		out[i] = count{node, t.of[node]}
	}
	return out
}

// take returns the counts and forgets them.
func (t *tallies) take() []count {
	if len(t.touched) == 0 {
		return nil
	}
	out := t.list()
	t.clear()
	return out
}

func (t *tallies) moveTo(o *tallies) {
	o.counts(t.take())
}

// path is units that took the same path: the same functions in the same order.
type path struct {
	units       int
	least, most uint64
	length      uint64  // instructions of the first
	counts      []count // sums over all, in order of time; nil where there is no memory for them
	steps       []step  // of the first; nil as well
}

// paths are all paths that were taken.
type paths struct {
	list  []*path // in the order in which they were first taken
	of    map[uint64]*path
	units int

	length uint64 // instructions of all units

	kept     int // steps
	compared int // counts
}

func newPaths() paths { return paths{of: map[uint64]*path{}} }

// add counts a unit. One that is too long is a path by itself.
func (p *paths) add(steps []step, sum *tallies, long bool) {
	length := uint64(0)
	for _, node := range sum.touched {
		length += sum.of[node].self
	}
	p.units++
	p.length += length
	way, _ := digests(steps)
	if long {
		way = 0
	}
	g := p.of[way]
	if g == nil || long {
		g = &path{least: length, length: length}
		p.list = append(p.list, g)
		if !long {
			p.of[way] = g
			p.remember(g, sum)
		}
	}
	g.units++
	g.least, g.most = min(g.least, length), max(g.most, length)
	if g.units > 1 && g.counts != nil {
		for i := range g.counts {
			g.counts[i].tally.add(sum.of[g.counts[i].node])
		}
	}
	if g.steps == nil && !long {
		p.keep(g, steps, length)
	}
}

// remember keeps the counts of a path's first unit.
func (p *paths) remember(g *path, sum *tallies) {
	if p.compared += len(sum.touched); p.compared <= mostCompared {
		g.counts = sum.list()
	}
}

// keep keeps the steps of a unit, if there is room or a rarer path can give some.
func (p *paths) keep(g *path, steps []step, length uint64) {
	for p.kept+len(steps) > mostKept {
		rare := p.rarest()
		if rare == nil || rare.units >= g.units {
			return
		}
		p.kept -= len(rare.steps)
		rare.steps = nil
	}
	p.kept += len(steps)
	g.steps, g.length = slices.Clone(steps), length
}

// rarest is the path with steps that was taken least often, the last of several.
func (p *paths) rarest() (rare *path) {
	for _, g := range p.list {
		if g.steps != nil && (rare == nil || g.units <= rare.units) {
			rare = g
		}
	}
	return rare
}

// best is the path that was taken most often; nil if there is none. Of several, as where each unit of
// a stream takes its own, it is the one whose first unit comes nearest to the mean of all.
func (p *paths) best() (best *path) {
	if p.units == 0 {
		return nil
	}
	mean := p.length / uint64(p.units) //nolint:gosec // positive
	far := func(g *path) uint64 { return max(g.length, mean) - min(g.length, mean) }
	for _, g := range p.list {
		if g.steps != nil && (best == nil || g.units > best.units || g.units == best.units && far(g) < far(best)) {
			best = g
		}
	}
	return best
}

// digests of steps: of the order of functions alone, and with what they cost.
func digests(steps []step) (way, cost uint64) {
	way, cost = 1, 1
	for _, s := range steps {
		x := uint64(s.node) << 1
		if s.begins {
			x |= 1
		}
		way = mix(way, x)
		cost = mix(cost, x<<32|uint64(s.n))
	}
	return way, cost
}

func mix(h, x uint64) uint64 {
	h = (h ^ x) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// cost is what units of equal cost executed.
type cost struct {
	digest uint64
	counts []count
	units  int
}

// ring holds the last units. Those that cost the same share their counts.
type ring struct {
	units []*cost
	next  int
	costs map[uint64]*cost
}

func newRing() ring { return ring{costs: map[uint64]*cost{}} }

// push adds a unit and returns the counts of the one that it replaces, if the ring was full.
func (r *ring) push(steps []step, sum *tallies, long bool, most int) (old []count) {
	_, digest := digests(steps)
	c := r.costs[digest]
	if c == nil || long {
		c = &cost{digest: digest, counts: sum.list()}
		if !long {
			r.costs[digest] = c
		}
	}
	c.units++
	if len(r.units) < most {
		r.units = append(r.units, c)
		return nil
	}
	out := r.units[r.next]
	r.units[r.next] = c
	r.next = (r.next + 1) % most
	if out.units--; out.units == 0 && r.costs[out.digest] == out {
		delete(r.costs, out.digest)
	}
	return out.counts
}
