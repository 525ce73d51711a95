package trace

import (
	"fmt"
	"strconv"
	"strings"
)

// outline is a path as people read it: calls of one name under one caller are one line where
// there are many of them, and only those are shown that begin a stage or that cost much.
type outline struct {
	name, stage string
	times       int // calls that the line is of
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
	count := map[string][]*Call{}
	for _, c := range calls {
		count[c.Name] = append(count[c.Name], c)
	}
	var out []*outline
	done := map[string]bool{}
	for _, c := range calls {
		group := []*Call{c}
		if len(count[c.Name]) >= limit {
			if done[c.Name] {
				continue
			}
			group, done[c.Name] = count[c.Name], true
		}
		out = append(out, outlineOf(group, append(stack, c.Name)))
	}
	return out
}

// outlineOf is one line for calls of one name.
func outlineOf(group []*Call, stack []string) *outline {
	o := &outline{name: group[0].Name, stage: StageOf(stack), times: len(group)}
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

// cut is a copy with only those lines that begin a stage and cost at least stage instructions, or
// whose own instructions are at least alone.
func (o *outline) cut(stage, alone uint64) *outline {
	out := *o
	out.inner = nil
	var visit func(*outline)
	visit = func(from *outline) {
		for _, k := range from.inner {
			if k.stage != "" && k.total >= stage || k.self >= alone {
				out.inner = append(out.inner, k.cut(stage, alone))
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
	if o.small > 0 {
		n++
	}
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
	stage, alone := float64(p.Instructions)*0.002, float64(p.Instructions)*0.015
	for range 40 {
		var out []*outline
		n := 0
		for _, o := range whole {
			o = o.cut(uint64(stage), max(1, uint64(alone)))
			n += o.lines()
			out = append(out, o)
		}
		if n <= max(outlineLines, 2*len(whole)) {
			return out
		}
		stage, alone = stage*1.4+1, alone*1.4+1
	}
	return whole[:min(len(whole), outlineLines)]
}

// write appends the lines of an outline, indented by depth.
func (o *outline) write(b *strings.Builder, depth int) {
	times, stage := "", ""
	if o.times > 1 {
		times = " ×" + strconv.Itoa(o.times)
	}
	if o.stage != "" {
		stage = "   # " + o.stage
	}
	indent := strings.Repeat("  ", depth)
	fmt.Fprintf(b, "%9d %8d  %s%s%s%s\n", o.total, o.self, indent, cleanName(o.name), times, stage)
	for _, k := range o.inner {
		k.write(b, depth+1)
	}
	if o.small > 0 {
		fmt.Fprintf(b, "%9d %8s  %s  and %s\n", o.smallCost, "", indent, counted(o.small, "smaller call"))
	}
}

// way lists the stages of an outline in order of time, each named once in a row.
func (o *outline) way() []string {
	var out []string
	var visit func(*outline)
	visit = func(o *outline) {
		if o.stage != "" && (len(out) == 0 || out[len(out)-1] != o.stage) {
			out = append(out, o.stage)
		}
		for _, k := range o.inner {
			visit(k)
		}
	}
	visit(o)
	return out
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
