package trace

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// outline is a path as people read it: calls of one name under one caller are one line where
// there are many of them, and only those are shown that begin a stage or that cost much.
type outline struct {
	name, stage string
	resumed     bool // the calls had begun before, and go on
	times       int  // calls that the line is of
	self, total uint64
	inner       []*outline
	small       int    // calls below it that have no line
	smallCost   uint64 // their own instructions
}

// Calls of one name under one caller from which on they are one line.
const (
	mergeThreads = 13
	mergeCalls   = 4
)

// outlined are all calls as lines, merged.
func outlined(calls []*Call, stack []string) []*outline {
	limit := mergeCalls
	if len(stack) == 0 {
		limit = mergeThreads
	}
	type kind struct {
		name    string
		resumed bool
	}
	count := map[kind][]*Call{}
	for _, c := range calls {
		k := kind{c.Name, c.Resumed}
		count[k] = append(count[k], c)
	}
	var out []*outline
	done := map[kind]bool{}
	for _, c := range calls {
		group, k := []*Call{c}, kind{c.Name, c.Resumed}
		if len(count[k]) >= limit {
			if done[k] {
				continue
			}
			group, done[k] = count[k], true
		}
		out = append(out, outlineOf(group, append(stack, c.Name)))
	}
	return out
}

// outlineOf is one line for calls of one name.
func outlineOf(group []*Call, stack []string) *outline {
	o := &outline{name: group[0].Name, stage: StageOf(stack), resumed: group[0].Resumed, times: len(group)}
	inner := group[0].Calls
	for i, c := range group {
		o.self, o.total = o.self+c.Self, o.total+c.Total
		if i > 0 {
			inner = append(inner[:len(inner):len(inner)], c.Calls...)
		}
	}
	o.inner = outlined(inner, stack)
	return o
}

// limits say which calls have a line: those that begin a stage and cost at least stage instructions,
// a tenth of that where they enforce policies; and those whose own instructions are at least alone.
type limits struct{ stage, alone float64 }

func (l limits) keep(o *outline) bool {
	switch {
	case o.stage != "" && enforcing(o.stage):
		return float64(o.total) >= l.stage/10
	case o.stage != "" && float64(o.total) >= l.stage:
		return true
	}
	return float64(o.self) >= l.alone
}

// enforcing reports whether policies are, or may be, enforced at a stage.
func enforcing(stage string) bool {
	return slices.ContainsFunc([]string{"netfilter", "iptables", "nftables", "ebtables", "ipset", "BPF", "tc ", "XDP", "generic XDP", "redirect"}, func(p string) bool {
		return strings.HasPrefix(stage, p)
	})
}

// cut is a copy with only the lines within the limits.
func (o *outline) cut(l limits) *outline {
	out := *o
	out.inner = nil
	var visit func(*outline)
	visit = func(from *outline) {
		for _, k := range from.inner {
			if l.keep(k) {
				out.inner = append(out.inner, k.cut(l))
				continue
			}
			out.small, out.smallCost = out.small+k.times, out.smallCost+k.self
			visit(k)
		}
	}
	visit(o)
	return &out
}

// lines is how many the outline takes.
func (o *outline) lines() int {
	n := 1
	for _, k := range o.inner {
		n += k.lines()
	}
	return n
}

// outlineLines is how long a path may be: two screens.
const outlineLines = 90

// brief are the threads of a path, cut to what two screens hold.
func (p Path) brief() []*outline {
	whole := outlined(p.Calls, nil)
	l := limits{float64(p.Instructions) * 0.001, max(1, float64(p.Instructions)*0.01)}
	for range 60 {
		var out []*outline
		n := 0
		for _, o := range whole {
			o = o.cut(l)
			n += o.lines()
			out = append(out, o)
		}
		if n <= max(outlineLines, 2*len(whole)) {
			return out
		}
		l = limits{l.stage*1.3 + 1, l.alone*1.3 + 1}
	}
	return whole[:min(len(whole), outlineLines)]
}

// write appends the lines of an outline, indented by depth.
func (o *outline) write(b *strings.Builder, depth int) {
	line := strings.Repeat("  ", depth)
	if o.resumed {
		line += "… "
	}
	line += cleanName(o.name)
	if o.times > 1 {
		line += " ×" + strconv.Itoa(o.times)
	}
	if o.stage != "" {
		line += "   # " + o.stage
	}
	if o.small > 0 {
		line += fmt.Sprintf("   (and %s: %s)", counted(o.small, "smaller call"), grouped(int64(o.smallCost)))
	}
	fmt.Fprintf(b, "%9d %8d  %s\n", o.total, o.self, line)
	for _, k := range o.inner {
		k.write(b, depth+1)
	}
}

// wayMost is how many stages of a thread are listed.
const wayMost = 80

// way lists the stages of a thread in order of time: each once in a row, those that cost next to
// nothing left out unless they enforce policies. Of calls that go on, the system call is listed.
func (o *outline) way(instructions uint64) []string {
	var out []string
	var visit func(*outline)
	visit = func(o *outline) {
		stage := o.stage
		if o.resumed && stage != "" {
			if stage = ""; strings.HasPrefix(o.stage, "system call") {
				stage = "back in " + o.stage
			}
		}
		if stage != "" && (len(out) == 0 || out[len(out)-1] != stage) {
			out = append(out, stage)
		}
		for _, k := range o.inner {
			visit(k)
		}
	}
	visit(o.cut(limits{float64(instructions) * 0.0015, math.Inf(1)}))
	if out = folded(out); len(out) > wayMost {
		out = append(out[:wayMost], fmt.Sprintf("%d more", len(out)-wayMost))
	}
	return out
}

// folded writes what comes several times in a row once, with how often: of a stream hardly two
// units have one way, but each is made of the same few.
func folded(way []string) (out []string) {
	for i := 0; i < len(way); {
		length, times := repeated(way[i:])
		if times < 2 {
			out = append(out, way[i])
			i++
			continue
		}
		out = append(out, fmt.Sprintf("(%s) ×%d", strings.Join(folded(way[i:i+length]), wayArrow), times))
		i += length * times
	}
	return out
}

// wayArrow is between the stages of a way.
const wayArrow = " → "

// repeated is how long the beginning of a way is that comes several times in a row, and how often:
// of several the one that shortens the way most.
func repeated(way []string) (length, times int) {
	saved := 0
	for n := 2; 2*n <= len(way); n++ {
		k := 1
		for (k+1)*n <= len(way) && slices.Equal(way[k*n:(k+1)*n], way[:n]) {
			k++
		}
		if (k-1)*n > saved {
			length, times, saved = n, k, (k-1)*n
		}
	}
	return length, times
}

// counted is "1 smaller call" or "14 smaller calls".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(int64(n)) + " " + noun + "s"
}

// grouped writes an integer with a space between thousands.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "−", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return sign + digits
}

// cleanName is a function's name on one line and without what separates the frames of a stack.
func cleanName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ';':
			return ':'
		case r < ' ' || r == 0x7f:
			return ' '
		}
		return r
	}, name)
}
