package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hookbed/driver/plan"
)

func (a *app) armsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "arms [NAME]",
		Short: "List what an experiment can measure: filters, fabrics, options and workloads",
		Long: `Arms lists what the [[arm]] tables and the matrix of an experiment can name: filters with
their mechanism, structure and hook, the fabrics that can carry them and the kernel that they
need; fabrics; options with their levels; workloads. NAME shows all of one: of a filter, why
it cannot go where it cannot.

A filter goes where it can be measured with its default options, in a lab as an experiment
has it that says nothing of it. "since" is the first release of Linux that has all it needs;
the oldest kernel that is tested, where that is all.`,
		Example: `  driver arms
  driver arms tc-hash
  driver arms attach
  driver arms --json | jq '.arms.filters[].name'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1, "at most one name")(cmd, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			offer := catalog().Offer()
			if len(args) == 0 {
				a.emit("arms", offer, func(w io.Writer) { listArms(w, offer) })
				return nil
			}
			if names := offer.Names(); !slices.Contains(names, args[0]) {
				return fmt.Errorf("%w: no filter, fabric, option or workload is named %q%s; `driver arms` lists them", errUsage, args[0], plan.DidYouMean(args[0], names))
			}
			a.emit("arms", offer.Named(args[0]), func(w io.Writer) { describeArms(w, offer, args[0]) })
			return nil
		},
	}
}

// listArms is the whole offer as tables.
func listArms(w io.Writer, o plan.Offer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "filter\tmechanism\tstructure\tsince\tgoes on\twhat it is")
	for _, f := range o.Filters {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, orDash(f.Mechanism), orDash(f.Structure), f.Since, strings.Join(f.FabricsOf(), " "), f.Doc)
	}
	fmt.Fprintln(t, "\nfabric\tmechanism\twhat it is")
	for _, f := range o.Fabrics {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, orDash(f.Mechanism), f.Doc)
	}
	fmt.Fprintln(t, "\ndatapath\tfabric\tfilter\twhat it is")
	for _, p := range o.Presets {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Name, p.Fabric, p.Filter, p.Doc)
	}
	fmt.Fprintln(t, "\noption\tlevels, the default first\tof")
	for _, x := range o.Options {
		fmt.Fprintf(t, "%s\t%s\t%s\n", x.Key, levelsOf(o, x), holdersOf(o, x))
	}
	fmt.Fprintln(t, "\nworkload\ttool\tprotocol\twhat it measures")
	for _, x := range o.Workloads {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", x.Name, x.Tool, x.Protocol, x.Doc)
	}
	_ = t.Flush() // where it writes to fails at its own end
	fmt.Fprintln(w, "\n`driver arms NAME` shows all of one.")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// levelsOf are an option's levels in one line, with the kernels of those that need a newer one.
func levelsOf(o plan.Offer, x plan.OfferedOption) string {
	if len(x.Levels) == 0 {
		return "any"
	}
	var out []string
	for _, l := range x.Levels {
		text := l.Level
		if len(o.Kernels) > 0 && l.Since != o.Kernels[0] {
			text += " (Linux " + l.Since + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// mostHolders is how many filters a line names.
const mostHolders = 4

// holdersOf says which filters, or which fabrics, have an option.
func holdersOf(o plan.Offer, x plan.OfferedOption) string {
	switch {
	case len(x.Fabrics) == len(o.Fabrics) && len(x.Filters) == len(o.Filters):
		return "every arm"
	case x.OfFabric && !x.OfFilter:
		return "fabric " + strings.Join(x.Fabrics, ", ")
	case len(x.Filters) > mostHolders:
		return fmt.Sprintf("filter %s and %d more", strings.Join(x.Filters[:mostHolders-1], ", "), len(x.Filters)-mostHolders+1)
	}
	return "filter " + strings.Join(x.Filters, ", ")
}

// describeArms is all that the offer has under one name.
func describeArms(w io.Writer, all plan.Offer, name string) {
	o := all.Named(name)
	for _, f := range o.Filters {
		describeFilter(w, all, f)
	}
	for _, f := range o.Fabrics {
		describeFabric(w, all, f)
	}
	for _, p := range o.Presets {
		fmt.Fprintf(w, "datapath %s: %s\n  fabric %s, filter %s: `driver arms %s`\n\n    [[arm]]\n    name = %q\n    datapath = %q\n", p.Name, p.Doc, p.Fabric, p.Filter, p.Filter, p.Name, p.Name)
	}
	for _, x := range o.Options {
		fmt.Fprintf(w, "option %s: %s\n", x.Key, x.Doc)
		fmt.Fprintf(w, "  levels      %s\n  about       %s\n", levelsOf(all, x), x.Role)
		if x.Needs != "" {
			fmt.Fprintf(w, "  only with   %s\n", x.Needs)
		}
		fmt.Fprintf(w, "  filters     %s\n  fabrics     %s\n", strings.Join(x.Filters, ", "), strings.Join(x.Fabrics, ", "))
	}
	for _, x := range o.Workloads {
		fmt.Fprintf(w, "workload %s: %s\n  tool        %s\n  protocol    %s\n  unit        %s\n", x.Name, x.Doc, x.Tool, x.Protocol, x.Work)
		for i, m := range x.Headline {
			fmt.Fprintf(w, "  %-10s  %s (%s)\n", map[bool]string{true: "headline"}[i == 0], m.Name, m.Unit)
		}
		fmt.Fprintf(w, "  counted     %s\n", map[bool]string{true: "measure.count can say how many", false: "no: it runs for measure.duration"}[x.Counts])
	}
}

func describeFilter(w io.Writer, all plan.Offer, f plan.OfferedFilter) {
	fmt.Fprintf(w, "filter %s: %s\n", f.Name, f.Doc)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  mechanism\t%s\n  structure\t%s\n  hook\t%s\n  since\tLinux %s%s\n", orDash(f.Mechanism), orDash(f.Structure), orDash(f.Hook), f.Since,
		map[bool]string{true: ", the oldest kernel that is tested"}[len(all.Kernels) > 0 && f.Since == all.Kernels[0]])
	if f.Regime != "" {
		fmt.Fprintf(t, "  regime\t%s\n", f.Regime)
	}
	if f.External != "" {
		fmt.Fprintf(t, "  project\t%s\n", f.External)
	}
	fmt.Fprintf(t, "  policies\t%s\n", map[bool]string{true: "any number", false: "none: it enforces nothing"}[f.Policies])
	for _, fabric := range all.Fabrics {
		refused, whole := f.Refusals(fabric.Name)
		switch {
		case len(refused) == 0:
			fmt.Fprintf(t, "  on %s\tyes\n", fabric.Name)
		case !whole:
			fmt.Fprintf(t, "  on %s\tin part\n", fabric.Name)
		}
		for _, why := range slices.Sorted(maps.Keys(refused)) {
			if whole {
				fmt.Fprintf(t, "  on %s\tno: %s\n", fabric.Name, why)
				continue
			}
			fmt.Fprintf(t, "  \tnot %s: %s\n", placesText(refused[why]), why)
		}
	}
	describeOptions(t, all, f.Options, func(x plan.OfferedOption) bool { return x.OfFilter && slices.Contains(x.Filters, f.Name) })
	_ = t.Flush() // where it writes to fails at its own end
	fmt.Fprintf(w, "\n    [[arm]]\n    name = %q\n    filter = %q\n", f.Name, f.Name)
}

// placesText names places: "localhost (wall clock, docker), ...".
func placesText(places []plan.Place) string {
	var out []string
	for _, p := range places {
		out = append(out, fmt.Sprintf("%s (%s clock, %s)", p.Scenario, p.Clock, p.Endpoint))
	}
	return strings.Join(out, ", ")
}

func describeFabric(w io.Writer, all plan.Offer, f plan.OfferedFabric) {
	fmt.Fprintf(w, "fabric %s: %s\n", f.Name, f.Doc)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  mechanism\t%s\n", orDash(f.Mechanism))
	if f.Base {
		fmt.Fprint(t, "  base\tan arm that names no fabric has this one\n")
	}
	var carries []string
	for _, filter := range all.Filters {
		if slices.Contains(filter.FabricsOf(), f.Name) {
			carries = append(carries, filter.Name)
		}
	}
	fmt.Fprintf(t, "  carries\t%s\n", strings.Join(carries, ", "))
	describeOptions(t, all, f.Options, func(x plan.OfferedOption) bool { return x.OfFabric && slices.Contains(x.Fabrics, f.Name) })
	_ = t.Flush() // where it writes to fails at its own end
	fmt.Fprintf(w, "\n    [[arm]]\n    name = \"mine\"\n    fabric = %q\n    filter = %q\n", f.Name, carries[0])
}

// describeOptions are the options of one filter or fabric.
func describeOptions(w io.Writer, all plan.Offer, keys []string, has func(plan.OfferedOption) bool) {
	for i, key := range keys {
		x := all.Options[slices.IndexFunc(all.Options, func(x plan.OfferedOption) bool { return x.Key == key && has(x) })]
		fmt.Fprintf(w, "  %s\t%s = %s: %s\n", map[bool]string{true: "options"}[i == 0], x.Key, levelsOf(all, x), x.Doc)
	}
}
