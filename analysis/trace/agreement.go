package trace

import (
	"slices"
	"strings"
)

// Difference is a run of calls that one of two paths has and the other does not, at that place.
type Difference struct {
	Role  string
	After string   // the last function before it that both have, "" at the beginning
	A, B  []string // what the one has there, and the other
}

// Agreement says how far two paths of one unit agree about the order of calls: twice the length of
// the longest sequence of calls that both have, over the sum of both lengths; 1 is the same order.
// It compares each role that both have, and of it only functions that both paths have: two tracers
// do not see the same ones. The client's unit is the frame; of other threads it is not known where
// in their loop it begins, so theirs may be rotated.
func Agreement(a, b Path) (share float64, differences []Difference) {
	orderA, seqA := sequences(a)
	_, seqB := sequences(b)
	both := common(seqA, seqB)
	matched, total := 0, 0
	for i, role := range orderA {
		if _, ok := seqB[role]; !ok {
			continue
		}
		x, y := restricted(seqA[role], both), restricted(seqB[role], both)
		if i > 0 {
			y = bestRotation(x, y)
		}
		n, d := compareSequences(x, y)
		for k := range d {
			d[k].Role = role
		}
		matched, total, differences = matched+2*n, total+len(x)+len(y), append(differences, d...)
	}
	if total == 0 {
		return 0, differences
	}
	return float64(matched) / float64(total), differences
}

// sequences are the functions of each role in the order in which they begin, and the roles in that of
// their first call. Calls that go on have begun before.
func sequences(p Path) (order []string, of map[string][]string) {
	of = map[string][]string{}
	for _, c := range p.Calls {
		if _, known := of[c.Name]; !known {
			order = append(order, c.Name)
		}
		of[c.Name] = preorder(c, of[c.Name])
	}
	return order, of
}

// preorder are the functions that begin below a call, in order.
func preorder(c *Call, names []string) []string {
	for _, k := range c.Calls {
		if !k.Resumed {
			names = append(names, withoutSuffix(k.Name))
		}
		names = preorder(k, names)
	}
	return names
}

// withoutSuffix is a function's name without what the compiler adds to parts and copies of it.
func withoutSuffix(name string) string {
	plain, _, _ := strings.Cut(name, ".")
	return plain
}

// common are the functions that both have, in whatever role.
func common(a, b map[string][]string) map[string]bool {
	inA, both := map[string]bool{}, map[string]bool{}
	for _, names := range a {
		for _, n := range names {
			inA[n] = true
		}
	}
	for _, names := range b {
		for _, n := range names {
			both[n] = both[n] || inA[n]
		}
	}
	return both
}

func restricted(names []string, to map[string]bool) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !to[n] })
}

// rotationsMost is how many rotations are tried.
const rotationsMost = 64

// bestRotation is y, rotated so that it agrees best with x. It tries those by which a function that
// both have once is at the same place in both.
func bestRotation(x, y []string) []string {
	best, most := y, 0
	tried := map[int]bool{}
	for _, by := range append([]int{0}, anchors(x, y)...) {
		if tried[by] || len(tried) == rotationsMost || len(y) == 0 {
			continue
		}
		tried[by] = true
		rotated := slices.Concat(y[by:], y[:by])
		if n, _ := compareSequences(x, rotated); n > most {
			best, most = rotated, n
		}
	}
	return best
}

// anchors are by how much y must be rotated for each function that both have once.
func anchors(x, y []string) (by []int) {
	once := func(names []string) map[string]int {
		at := map[string]int{}
		for i, n := range names {
			if _, again := at[n]; again {
				i = -1
			}
			at[n] = i
		}
		return at
	}
	inX := once(x)
	for name, j := range once(y) {
		if i, ok := inX[name]; ok && i >= 0 && j >= 0 {
			by = append(by, ((j-i)%len(y)+len(y))%len(y))
		}
	}
	slices.Sort(by)
	return slices.Compact(by)
}

// comparedMost bounds the memory of a comparison; sequences that are longer are compared as far as
// they begin and end alike.
const comparedMost = 64 << 20

// compareSequences is the length of the longest common subsequence, and what is not in it.
func compareSequences(x, y []string) (n int, differences []Difference) {
	head := 0
	for head < len(x) && head < len(y) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(x)-head && tail < len(y)-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	after := ""
	if head > 0 {
		after = x[head-1]
	}
	n, differences = middle(x[head:len(x)-tail], y[head:len(y)-tail], after)
	return head + n + tail, differences
}

// middle compares what is between the beginnings and the ends that are alike.
func middle(x, y []string, after string) (n int, differences []Difference) {
	if len(x) == 0 && len(y) == 0 {
		return 0, nil
	}
	if len(x)*len(y) > comparedMost {
		return 0, []Difference{{After: after, A: x, B: y}}
	}
	width := len(y) + 1
	longest := make([]uint16, (len(x)+1)*width) // of x[i:] and y[j:]
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				longest[i*width+j] = longest[(i+1)*width+j+1] + 1
			} else {
				longest[i*width+j] = max(longest[(i+1)*width+j], longest[i*width+j+1])
			}
		}
	}
	d := Difference{After: after}
	flush := func() {
		if len(d.A)+len(d.B) > 0 {
			differences = append(differences, d)
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			flush()
			d = Difference{After: x[i]}
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && longest[(i+1)*width+j] >= longest[i*width+j+1]:
			d.A = append(d.A, x[i])
			i++
		default:
			d.B = append(d.B, y[j])
			j++
		}
	}
	flush()
	return int(longest[0]), differences
}
