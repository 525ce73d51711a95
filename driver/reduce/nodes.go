package reduce

// Kinds of nodes.
const (
	ofCall    = iota // a function
	ofThread         // a thread under one program: its name is found at the end
	ofUnknown        // what a thread had called before the window began, not yet known
)

// node is a function in one stack.
type node struct {
	parent int32
	sym    int32 // of ofThread: index of the thread's life
	kind   uint8

	around, measured tally
}

// tally counts what a node executed.
type tally struct{ self, calls uint64 }

func (t *tally) add(o tally) { t.self, t.calls = t.self+o.self, t.calls+o.calls }

// nodes is the tree of all stacks: a node's parent comes before it. Children are found by a hash
// table of parent and symbol, because each block needs it.
type nodes struct {
	list  []node
	keys  []uint64 // parent and symbol, 0 where free
	found []int32
	used  int

	into map[int32]int32 // of nodes ofUnknown: the node that they turned out to be
}

func newNodes() nodes {
	const slots = 1 << 12
	return nodes{
		list: []node{{parent: -1, sym: -1}},
		keys: make([]uint64, slots), found: make([]int32, slots),
		into: map[int32]int32{},
	}
}

// kid returns the child of a node for a function.
func (t *nodes) kid(parent, sym int32) int32 {
	key := uint64(parent)<<32 | uint64(sym) + 1
	for i := t.slot(key); ; i = (i + 1) & (len(t.keys) - 1) {
		switch t.keys[i] {
		case key:
			return t.found[i]
		case 0:
			k := t.add(parent, sym, ofCall)
			t.keys[i], t.found[i] = key, k
			if t.used++; 2*t.used > len(t.keys) {
				t.grow()
			}
			return k
		}
	}
}

func (t *nodes) slot(key uint64) int {
	key *= 0x9e3779b97f4a7c15
	return int(key>>32) & (len(t.keys) - 1)
}

func (t *nodes) grow() {
	keys, found := t.keys, t.found
	t.keys, t.found = make([]uint64, 2*len(keys)), make([]int32, 2*len(keys))
	for j, key := range keys {
		if key == 0 {
			continue
		}
		i := t.slot(key)
		for t.keys[i] != 0 {
			i = (i + 1) & (len(t.keys) - 1)
		}
		t.keys[i], t.found[i] = key, found[j]
	}
}

// add makes a node, which kid finds only if it is ofCall and made there.
func (t *nodes) add(parent, sym int32, kind uint8) int32 {
	t.list = append(t.list, node{parent: parent, sym: sym, kind: kind})
	return int32(len(t.list) - 1)
}
