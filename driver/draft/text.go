package draft

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/driver/plan"
)

// text is the file of a request in a size.
func (w Writer) text(r Request, arms []arm, s size) []byte {
	var out strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	line("# Written by `driver init`. `driver plan` shows what it adds up to, `driver run` measures it,")
	line("# `driver arms NAME` says what an arm or an option is.")
	line("schema = %d", plan.FileSchema)
	line("name = %q", r.Name)
	line("seed = 1 # of all orders: the same file has the same plan")
	w.lab(line, r)
	w.measure(line, r, s)
	line("\n[matrix]")
	line("scenarios = %s # localhost: both endpoints on one node; multi-host: on two", words(r.Scenarios))
	line("workloads = %s", words(r.Workloads))
	for _, name := range r.Workloads {
		line("%s", comment(name+": "+w.docOf(name)))
	}
	line("policies = [%s]%s", numbers(r.Policies), map[bool]string{true: " # 0: no policy at all, which each arm is compared with"}[slices.Contains(r.Policies, 0)])
	if len(r.Kernels) > 1 {
		line("kernels = %s # each is booted as often as the other", words(r.Kernels))
	}
	for _, a := range arms {
		line("\n[[arm]]")
		line("%s", comment(a.doc))
		line("name = %q", a.name)
		switch {
		case a.datapath != "":
			line("datapath = %q", a.datapath)
		case a.fabric != "":
			line("fabric = %q\nfilter = %q", a.fabric, a.filter)
		default:
			line("filter = %q", a.filter)
		}
		for _, o := range a.options {
			line("%s = %q", o.key, o.level)
		}
	}
	return []byte(out.String())
}

func (w Writer) lab(line func(string, ...any), r Request) {
	line("\n[lab]")
	line("provider = %q", r.Provider)
	if r.Clock == plan.ClockVirtual {
		line("clock = %q # executed instructions: the same numbers on every computer, in every run", r.Clock)
	} else {
		line("clock = %q # time as it passes, with its noise", r.Clock)
	}
	if len(r.Kernels) == 1 {
		line("kernel = %q", r.Kernels[0])
	}
}

func (w Writer) measure(line func(string, ...any), r Request, s size) {
	line("\n[measure]")
	names, counts := w.counted(r, s)
	if r.Clock == plan.ClockVirtual {
		line("seeds = %d # boots of each scenario, each with its own randomness", s.boots)
	} else {
		line("blocks = %d # boots: what differs from boot to boot is seen in no other way", s.boots)
		line("trials = %d # of each cell in each block", s.trials)
	}
	if len(names) < len(r.Workloads) { // some workload has no number of transactions
		line("duration = %q # of one trial", short(s.duration))
		if r.Clock != plan.ClockVirtual {
			line("warmup = \"1s\" # before it, not counted")
		}
	}
	if len(names) > 0 {
		var parts []string
		for i, name := range names {
			parts = append(parts, fmt.Sprintf("%s = %d", name, counts[i]))
		}
		line("count = { %s } # transactions of one trial", strings.Join(parts, ", "))
	}
}

func (w Writer) docOf(workload string) string {
	for _, e := range w.Catalog.Workloads {
		if e.Name == workload {
			return e.Doc
		}
	}
	return ""
}

// width is that of a comment, in bytes.
const width = 96

// comment is a text as TOML comments.
func comment(text string) string {
	var lines []string
	now := "#"
	for word := range strings.FieldsSeq(text) {
		if len(now)+1+len(word) > width {
			lines, now = append(lines, now), "#"
		}
		now += " " + word
	}
	return strings.Join(append(lines, now), "\n")
}

func words(all []string) string {
	quoted := make([]string, 0, len(all))
	for _, w := range all {
		quoted = append(quoted, strconv.Quote(w))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func numbers(all []int) string {
	out := make([]string, 0, len(all))
	for _, n := range all {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, ", ")
}
