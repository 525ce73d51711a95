package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// fact is one of the first things to know of a run: what it ran on, and how good its
// numbers are.
type fact struct {
	Name  string // of the data attribute: "kernel"
	Title string // before the value
	Value string
	Tip   string // more of it, "" for nothing
	Link  string // ID of the element it leads to, without the part's prefix; "" for none
	Bad   bool   // it makes numbers worse
}

// factsOf are those that are known, in the order in which they are shown.
func factsOf(e *summary.Estimator, warnings int) []fact {
	trials, voids := trialFacts(e)
	all := []fact{
		listed("kernel", "kernel", kernelsOf(e)),
		listed("cpu", "CPU", recorded(e, "host_cpu", "cpu.model")),
		{Name: "accelerator", Title: "accelerator", Value: strings.ToUpper(strings.Join(e.Accelerators(), ", "))},
		{Name: "clock", Title: "clock", Value: e.Clock()},
		listed("date", "date", datesOf(e)),
		trials, loadFact(e), covFact(e), voids,
	}
	if warnings > 0 {
		all = append(all, fact{Name: "warnings", Value: table.Plural(warnings, "warning"), Link: "warnings", Bad: true})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

// listed is a fact of one or two values; of more it has the first and how many there are.
func listed(name, title string, values []string) fact {
	f := fact{Name: name, Title: title, Value: strings.Join(values, ", ")}
	if len(values) > 2 {
		f.Value, f.Tip = fmt.Sprintf("%s and %d more", values[0], len(values)-1), f.Value
	}
	return f
}

// recorded are the different values of entries of the environments whose keys are, or end
// with, one of the names.
func recorded(e *summary.Estimator, names ...string) (out []string) {
	for _, r := range e.Runs {
		for key, v := range r.Env {
			is := slices.ContainsFunc(names, func(n string) bool { return key == n || strings.HasSuffix(key, "."+n) })
			if is && v != "" && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	slices.Sort(out)
	return out
}

// kernelsOf are the kernels that were measured: of the nodes, as the environment has them,
// else as the cells name them.
func kernelsOf(e *summary.Estimator) []string {
	if out := recorded(e, "kernel_release", "kernel.release"); len(out) > 0 {
		return out
	}
	var out []string
	for _, c := range e.Cells {
		if k := c.Get("kernel"); k != "" && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// datesOf are the days on which the runs began, in UTC.
func datesOf(e *summary.Estimator) (out []string) {
	for _, started := range recorded(e, "started") {
		day, _, _ := strings.Cut(started, "T")
		if !slices.Contains(out, day) {
			out = append(out, day)
		}
	}
	return out
}

// trialFacts are how many trials gave a number, and how many were void.
func trialFacts(e *summary.Estimator) (trials, voids fact) {
	ok, total, void := 0, 0, 0
	for _, g := range e.All() {
		ok += g.Count(record.StatusOK)
		total += max(g.Planned, g.Tried())
		void += g.Count(record.StatusVoid)
	}
	trials = fact{Name: "trials", Title: "trials", Value: fmt.Sprintf("%d ok", ok)}
	if ok < total {
		trials.Value, trials.Bad = fmt.Sprintf("%d of %d ok", ok, total), true
	}
	return trials, fact{Name: "void", Title: "void", Value: strconv.Itoa(void), Tip: "trials whose number a guard refused", Bad: void > 0}
}

// loadFact is the load of this computer while it measured, from the rows, or when it began.
// It says nothing of virtual time, which does not depend on it.
func loadFact(e *summary.Estimator) fact {
	f := fact{Name: "load", Title: "load"}
	if e.Clock() == runs.ClockVirtual {
		return f
	}
	var loads []float64
	for _, g := range e.All() {
		loads = append(loads, slices.Concat(g.Samples("load1.client_node"), g.Samples("load1.server_node"))...)
	}
	if len(loads) > 0 {
		f.Value = fmt.Sprintf("%.1f, at most %.1f", stat.Median(loads), slices.Max(loads))
		f.Tip = "load average of the last minute when trials ended: the median, and the highest"
		return f
	}
	if begin := recorded(e, "host_load"); len(begin) > 0 {
		f.Value, _, _ = strings.Cut(begin[0], " ")
		f.Tip = "load average when the run began"
	}
	return f
}

// covFact is by how much trials, or in virtual time seeds, of the headline metrics differ.
func covFact(e *summary.Estimator) fact {
	f, limit := fact{Name: "cov", Title: "CoV"}, noisy
	var all []float64
	for _, s := range measureSummaries(e) {
		v := s.CoV
		if e.Clock() == runs.ClockVirtual {
			v, limit = s.SeedCoV, unevenSeeds
		}
		if v != nil {
			all = append(all, *v)
		}
	}
	if len(all) == 0 {
		return f
	}
	worst := slices.Max(all)
	f.Value, f.Bad = fmt.Sprintf("%s, at most %s", table.Percent(stat.Median(all)), table.Percent(worst)), worst > limit
	f.Tip = "coefficient of variation of the headline cells: the median, and the highest"
	return f
}
