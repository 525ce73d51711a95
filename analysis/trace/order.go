package trace

import (
	"fmt"
	"io"
	"strings"
)

// Order is a path of which only the order of calls is known: a tracer of the kernel's functions
// recorded it on the wall clock. It has no costs, so Self and Total of its calls are 0 and are not
// shown.
type Order struct {
	Title  string   // of the cell
	Unit   string   // "transaction"
	Facts  []string // how it was recorded, a line each
	Path   Path
	Stages func(stack []string) string // what part of the way a stack's last function begins, "" for none; nil: not shown
}

// WriteOrder writes path.md of an order of calls: every call as a tree, and what other units
// called.
func WriteOrder(w io.Writer, o Order) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: the order of calls of one %s\n\n", o.Title, o.Unit)
	fmt.Fprintf(&b, "**Order only.** The kernel's function tracer recorded which functions are entered, one after the other. It takes many times "+
		"as long as what it observes, so nothing here is a cost. Functions that the compiler made a part of others, those that the kernel keeps from tracers, "+
		"BPF programs and user programs are not in it.\n\n")
	for _, f := range append(o.compared(), o.Facts...) {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	o.writeWay(&b)
	b.WriteString("\n## Every call\n\nWhat is indented was called by the function above it. A thread goes on where another gave way to it.\n\n```\n")
	for _, c := range o.Path.Calls {
		o.writeCall(&b, c, nil)
	}
	b.WriteString("```\n")
	o.writeOthers(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// compared says how many units took the path.
func (o Order) compared() []string {
	p := o.Path
	switch {
	case p.Units <= 1:
		return []string{fmt.Sprintf("The only whole %s that was recorded: there is none to compare it with.", o.Unit)}
	case p.Same == p.Units:
		return []string{fmt.Sprintf("All %d whole %ss took exactly this path.", p.Units, o.Unit)}
	}
	return []string{fmt.Sprintf("%d of %d whole %ss took exactly this path, call by call; in all there were %d paths.", p.Same, p.Units, o.Unit, p.Paths)}
}

// writeWay writes the stages of each thread in a line.
func (o Order) writeWay(b *strings.Builder) {
	if o.Stages == nil {
		return
	}
	b.WriteString("\n## The way in order\n\n")
	for _, thread := range o.Path.Calls {
		var way []string
		var visit func(c *Call, above []string)
		visit = func(c *Call, above []string) {
			stack := append(above[:len(above):len(above)], c.Name)
			if s := o.Stages(stack); s != "" && (len(way) == 0 || way[len(way)-1] != s) {
				way = append(way, s)
			}
			for _, k := range c.Calls {
				visit(k, stack)
			}
		}
		visit(thread, nil)
		if len(way) > 0 {
			fmt.Fprintf(b, "- **%s:** %s\n", thread.Name, strings.Join(folded(way), wayArrow))
		}
	}
}

func (o Order) writeCall(b *strings.Builder, c *Call, above []string) {
	stack := append(above[:len(above):len(above)], c.Name)
	stage := ""
	if o.Stages != nil {
		if stage = o.Stages(stack); stage != "" {
			stage = "   # " + stage
		}
	}
	if c.Resumed {
		stage = " (goes on)"
	}
	fmt.Fprintf(b, "%s%s%s\n", strings.Repeat("  ", len(above)), c.Name, stage)
	for _, k := range c.Calls {
		o.writeCall(b, k, stack)
	}
}

// othersMost is how many functions the table of other paths has.
const othersMost = 40

func (o Order) writeOthers(b *strings.Builder) {
	p := o.Path
	if p.Units <= 1 || p.Same == p.Units {
		return
	}
	fmt.Fprintf(b, "\n## What the other %d did\n\n", p.Units-p.Same)
	if len(p.Others) == 0 {
		b.WriteString("The same calls, in another order or under other callers.\n")
		return
	}
	b.WriteString("Calls are what such a unit has more than the path above, on average.\n\n| function | units | calls more |\n| --- | --: | --: |\n")
	for i, v := range p.Others {
		if i == othersMost {
			fmt.Fprintf(b, "\nAnd %d more functions.\n", len(p.Others)-i)
			break
		}
		fmt.Fprintf(b, "| `%s` | %d | %.1f |\n", v.Name, v.Units, v.More)
	}
}
