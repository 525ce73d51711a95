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
	shown := []string{FactorArm, FactorDatapath, FactorFabric, FactorFilter}
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
	fmt.Fprintf(w, "trials\t%d\t(a cell: blocks x trials = %d x %d)\n", len(p.Trials), m.Blocks, m.Trials)
	fmt.Fprintf(w, "setups\t%d\t(applied once for all their workloads)\n", p.Setups())
	fmt.Fprintf(w, "seed\t%d\n", p.Spec.Seed)
	fmt.Fprintf(w, "measuring\t%s\t(warm-up included, setting up not)\n", p.Measuring())
}
