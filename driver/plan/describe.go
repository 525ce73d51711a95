package plan

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

var trailing = regexp.MustCompile(`(?m) +$`)

// Describe prints a plan for a person: its arms, the factors that vary, those
// that are fixed, and what it adds up to.
func Describe(w io.Writer, p *Plan) {
	var text strings.Builder
	tw := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "experiment\t%s\n", p.Spec.Name)
	if p.Spec.Description != "" {
		fmt.Fprintf(tw, "\t%s\n", p.Spec.Description)
	}
	describeOwn(tw, p.Spec.Own)
	describeArms(tw, p)
	describeFactors(tw, p)
	describeSum(tw, p)
	_ = tw.Flush() // a strings.Builder takes every write
	fmt.Fprint(w, trailing.ReplaceAllString(text.String(), ""))
}

func describeArms(w io.Writer, p *Plan) {
	fmt.Fprint(w, "\narm\tdatapath\tfabric\tfilter\tpolicies\toptions\n")
	for _, a := range p.Spec.Arms {
		var fabric, filter string
		var policies []string
		for _, c := range p.Cells {
			if c.Get(FactorArm) != a.Name {
				continue
			}
			fabric, filter = c.Get(FactorFabric), c.Get(FactorFilter)
			if n := c.Get(FactorPolicies); !slices.Contains(policies, n) {
				policies = append(policies, n)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, a.Datapath, fabric, filter, strings.Join(policies, " "), optionText(a.Options))
	}
}

func optionText(options map[string]string) string {
	out := make([]string, 0, len(options))
	for _, k := range slices.Sorted(maps.Keys(options)) {
		out = append(out, k+"="+options[k])
	}
	return strings.Join(out, " ")
}

// describeFactors leaves out what the table of arms has shown.
func describeFactors(w io.Writer, p *Plan) {
	shown := []string{FactorArm, FactorDatapath, FactorFabric, FactorFilter, FactorSeed}
	for _, a := range p.Spec.Arms {
		shown = slices.AppendSeq(shown, maps.Keys(a.Options))
	}
	fmt.Fprint(w, "\nfactor\tlevels\n")
	for _, f := range p.FactorNames() {
		if !slices.Contains(shown, f) {
			fmt.Fprintf(w, "%s\t%s\n", f, strings.Join(p.Levels(f), " "))
		}
	}
}

func describeSum(w io.Writer, p *Plan) {
	m := p.Spec.Measure
	fmt.Fprintf(w, "\ncells\t%d\n", len(p.Cells))
	switch {
	case p.Spec.Traced != nil:
		fmt.Fprintf(w, "blocks\t%d\t(a boot for each cell)\n", m.Blocks)
		fmt.Fprintf(w, "trials\t%d\t(one a cell)\n", len(p.Trials))
	case p.Spec.Lab.Clock == ClockVirtual && m.Parts > 1:
		fmt.Fprintf(w, "blocks\t%d\t(a boot each: seeds x boots x scenarios x parts = %d x %d x %d x %d)\n", m.Blocks, m.Seeds, len(p.Spec.Boots()), len(p.Spec.Scenarios), m.Parts)
		fmt.Fprintf(w, "trials\t%d\t(a cell: seeds x trials = %d x %d)\n", len(p.Trials), m.Seeds, m.Trials)
	case p.Spec.Lab.Clock == ClockVirtual && p.Spec.compared():
		fmt.Fprintf(w, "blocks\t%d\t(a boot each: seeds x boots x scenarios = %d x %d x %d)\n", m.Blocks, m.Seeds, len(p.Spec.Boots()), len(p.Spec.Scenarios))
		fmt.Fprintf(w, "trials\t%d\t(a cell: seeds x trials = %d x %d)\n", len(p.Trials), m.Seeds, m.Trials)
	case p.Spec.Lab.Clock == ClockVirtual:
		fmt.Fprintf(w, "blocks\t%d\t(a boot each: seeds x scenarios = %d x %d)\n", m.Blocks, m.Seeds, len(p.Spec.Scenarios))
		fmt.Fprintf(w, "trials\t%d\t(a cell: seeds x trials = %d x %d)\n", len(p.Trials), m.Seeds, m.Trials)
	case m.Stop != nil:
		fmt.Fprintf(w, "trials\tat most %d\t(a cell: %d to %d in %d blocks, until the interval of its %s is within %.3g %%)\n",
			len(p.Trials), m.Stop.Min, m.Stop.Max, p.Spec.CellBlocks(), m.Estimator, 100*m.Stop.CI)
	default:
		fmt.Fprintf(w, "trials\t%d\t(a cell: blocks x trials = %d x %d)\n", len(p.Trials), p.Spec.CellBlocks(), m.Trials)
	}
	if p.Spec.compared() && p.Spec.Lab.Clock == ClockWall {
		fmt.Fprintf(w, "blocks\t%d\t(a boot each: blocks x kernels and network cards = %d x %d)\n", m.Blocks, p.Spec.CellBlocks(), len(p.Spec.Boots()))
	}
	fmt.Fprintf(w, "estimator\t%s\t(of a cell's trials)\n", m.Estimator)
	if m.LoadLimit > 0 {
		fmt.Fprintf(w, "load limit\t%v\t(load average above which a trial waits)\n", m.LoadLimit)
	}
	if m.StealLimit > 0 {
		fmt.Fprintf(w, "steal limit\t%.3g %%\t(of the CPUs' time, above which a trial is void)\n", 100*m.StealLimit)
	}
	fmt.Fprintf(w, "setups\t%d\t(applied once for all their workloads)\n", p.Setups())
	fmt.Fprintf(w, "seed\t%d\n", p.Spec.Seed)
	fmt.Fprintf(w, "measuring\t%s\t(%s clock, warm-up included, setting up not)\n", p.Measuring(), p.Spec.Lab.Clock)
}

// describeOwn says which policies of the user's arms enforce, and which flow is measured.
func describeOwn(w io.Writer, o *Own) {
	if o == nil {
		return
	}
	var files []string
	for _, f := range o.Files {
		files = append(files, f.Path)
	}
	fmt.Fprintf(w, "policies\t%d of %s\n", o.Policies, strings.Join(files, ", "))
	fmt.Fprintf(w, "\tmeasured from %s to %s at port %d\n", o.Client, o.Server, o.Port)
}
