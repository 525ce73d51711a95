package trace

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// completeMost is how many lines the complete tree may have in path.md.
const completeMost = 6000

// WritePath writes path.md: the way of one unit as a tree cut at its stages, the complete tree
// where it has at most 6000 lines, and what other units did.
func WritePath(w io.Writer, t *Trace) error {
	var b strings.Builder
	p := t.Path
	fmt.Fprintf(&b, "# %s: the path of one %s\n\n", markdownText(t.Title()), t.Unit)
	for _, line := range t.pathFacts() {
		fmt.Fprintf(&b, "- %s\n", markdownText(line))
	}
	p.write(&b, t.Unit)
	_, err := io.WriteString(w, b.String())
	return err
}

// write writes the way in order, with its costs, what other units did, and every call.
func (p Path) write(b *strings.Builder, unit string) {
	brief := p.brief()
	b.WriteString("\n## The way in order\n\n")
	for _, o := range outlined(p.Calls, nil) {
		if way := o.way(p.Instructions); len(way) > 0 {
			fmt.Fprintf(b, "- **%s:** %s\n", markdownText(o.name), markdownText(strings.Join(way, wayArrow)))
		}
	}
	b.WriteString("\n## With what it costs\n\nInstructions: in total, with what was called and with interrupts; and of the function itself. " +
		"`#` says which part of the way begins. `×3` is three calls on one line. `…` is a call that began before and goes on. In order of time; what smaller calls below a line execute themselves is in parentheses, so that a line is the sum of itself, of these and of the lines below it.\n\n")
	b.WriteString("```\n    total     self\n")
	for _, o := range brief {
		o.write(b, 0)
	}
	b.WriteString("```\n\n")
	p.writeOthers(b, unit)
	p.writeComplete(b)
}

// pathFacts say what the path is of and what it was compared with.
func (t *Trace) pathFacts() []string {
	p := t.Path
	out := []string{fmt.Sprintf("%s instructions, interrupts among them.", grouped(int64(p.Instructions)))}
	switch {
	case p.Units <= 1:
		out = append(out, fmt.Sprintf("The only whole %s of the trace: there is none to compare it with.", t.Unit))
	case p.Same == p.Units:
		out = append(out, fmt.Sprintf("All %s whole %s took exactly this path.", grouped(int64(p.Units)), plural(t.Unit)))
	default:
		out = append(out, fmt.Sprintf("%s of %s whole %s took exactly this path, call by call; the others took %s.",
			grouped(int64(p.Same)), grouped(int64(p.Units)), plural(t.Unit), counted(max(0, p.Paths-1), "other path")))
	}
	if p.Units > 1 {
		out = append(out, fmt.Sprintf("The cheapest executed %s instructions, the dearest %s; on average they are %s.",
			grouped(int64(p.Least)), grouped(int64(p.Most)), grouped(int64(math.Round(t.PerUnit(t.Window.Measured))))))
	}
	out = append(out, t.Window.String(), fmt.Sprintf("Cell %s, seed %d: %s.", t.Cell, t.Seed, factorList(t.Factors)))
	return out
}

// plural is "transactions"; "MiB" stays as it is.
func plural(unit string) string {
	if unit == UnitMiB {
		return unit
	}
	return unit + "s"
}

// String says how exact the trace is.
func (w Window) String() string {
	said := fmt.Sprintf("The clock advanced by %s ns, of which the CPU was halted for %s: %s instructions at %d ns were traced",
		grouped(int64(w.ClockNS)), grouped(int64(w.IdleNS)), grouped(int64(w.Instructions)), w.NSPerInstruction)
	switch {
	case w.Exact():
		said += ", to the instruction."
	case w.Off() == 0:
		said += fmt.Sprintf(", to the instruction in all, but %s of %s readings of the clock between are off.", grouped(int64(w.ClocksOff)), grouped(int64(w.Clocks)))
	default:
		said += fmt.Sprintf(", which leaves %s ns: the trace is not exact.", grouped(w.Off()))
	}
	if w.Misrooted > 0 {
		said += fmt.Sprintf(" The stack of %s instructions does not begin at an entry to the kernel", grouped(int64(w.Misrooted)))
		if len(w.Roots) > 0 {
			said += ", but with " + w.Misroots()
		}
		said += "."
	}
	if w.Unnamed > 0 {
		said += fmt.Sprintf(" %s instructions are at addresses without a symbol.", grouped(int64(w.Unnamed)))
	}
	return said
}

// factorList is "arm=docker, clock=virtual".
func factorList(factors map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(factors)) {
		parts = append(parts, k+"="+factors[k])
	}
	return strings.Join(parts, ", ")
}

// writeOthers says what units on other paths did.
func (p Path) writeOthers(b *strings.Builder, unit string) {
	if p.Units <= 1 || p.Same == p.Units {
		return
	}
	others := unit
	if n := p.Units - p.Same; n > 1 {
		others = grouped(int64(n)) + " " + plural(unit)
	}
	fmt.Fprintf(b, "## What the other %s did\n\n", others)
	if len(p.Others) == 0 {
		b.WriteString("The same calls, in another order or under other callers.\n\n")
		return
	}
	b.WriteString("Calls and instructions are what such a unit has more than the path above, on average; instructions are with what was called.\n\n" +
		"| function | units | calls more | instructions more |\n| --- | --: | --: | --: |\n")
	for _, v := range p.Others {
		fmt.Fprintf(b, "| %s | %d | %s | %s |\n", markdownText(v.Name), v.Units, minus(fixed(v.More, 1)), minus(fixed(v.Cost, 1)))
	}
	b.WriteString("\n")
}

// writeComplete writes every call, folded away.
func (p Path) writeComplete(b *strings.Builder) {
	whole := outlined(p.Calls, nil)
	lines := 0
	for _, o := range whole {
		lines += o.lines()
	}
	if lines > completeMost {
		fmt.Fprintf(b, "Every call is in %s: a complete tree would have %s lines.\n", callsFile, grouped(int64(lines)))
		return
	}
	b.WriteString("<details><summary>Every call</summary>\n\n```\n    total     self\n")
	for _, o := range whole {
		o.write(b, 0)
	}
	b.WriteString("```\n\n</details>\n")
}

// fixed writes a float the same on every computer, without a negative zero.
func fixed(v float64, decimals int) string {
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if digits, ok := strings.CutPrefix(text, "-"); ok && strings.Trim(digits, "0.") == "" {
		return digits
	}
	return text
}

// minus writes a negative number with the sign of typography.
func minus(number string) string { return strings.Replace(number, "-", "−", 1) }

// markdownText keeps a text from being read as markup.
func markdownText(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "]", `\]`).Replace(s)
}
