package summary

import (
	"slices"

	"hookbed/analysis/runs"
)

// Stratum is what numbers are kept apart by, the workload aside: numbers of two
// strata are never put together. Kernel, NIC and Streams are set only where a plan
// compares levels of that factor.
type Stratum struct {
	Scenario string // "localhost"
	Kernel   string // name of the kernel that the machines boot
	NIC      string // model of the network card
	Streams  string // number of connections of a client
}

// Factor is a factor other than the scenario that a plan may compare: what the machines
// boot with, and how many connections a client has.
type Factor struct {
	Name  string // in plans and rows
	Title string // of its section: "Kernels"
	one   string // before a level in the name of a stratum: "kernel"
	field func(*Stratum) *string
}

// Factors lists them in the order in which strata name their levels.
func Factors() []Factor {
	return []Factor{
		{"kernel", "Kernels", "kernel", func(s *Stratum) *string { return &s.Kernel }},
		{"nic", "Network cards", "card", func(s *Stratum) *string { return &s.NIC }},
		{runs.FactorStreams, "Streams", "streams", func(s *Stratum) *string { return &s.Streams }},
	}
}

// String names the stratum for people: "localhost, kernel 6.12".
func (s Stratum) String() string {
	name := s.Scenario
	for _, f := range Factors() {
		if level := s.Level(f); level != "" {
			name += ", " + f.one + " " + level
		}
	}
	return name
}

// Level is the stratum's level of a factor, "" where it is not compared.
func (s Stratum) Level(f Factor) string { return *f.field(&s) }

// With is the stratum with another level of a factor; "" takes it out.
func (s Stratum) With(f Factor, level string) Stratum {
	*f.field(&s) = level
	return s
}

// Levels are the levels of a factor that a plan compares, in its order; none where no
// plan compares any.
func (d *Data) Levels(f Factor) []string { return d.compared[f.Name] }

// compared lists the factors of a stratum that vary within one plan, with their
// levels in the order of the plan. What merged runs differ by was not planned as a
// comparison: a report warns of it.
func compared(all []runs.Run) map[string][]string {
	out := map[string][]string{}
	for _, r := range all {
		if r.Plan == nil {
			continue
		}
		for _, f := range Factors() {
			var levels []string
			for _, c := range r.Plan.Cells {
				if l := c.Factors[f.Name]; l != "" && !slices.Contains(levels, l) {
					levels = append(levels, l)
				}
			}
			if len(levels) > 1 {
				out[f.Name] = append(out[f.Name], levels...)
			}
		}
	}
	for name, levels := range out {
		var once []string
		for _, l := range levels {
			if !slices.Contains(once, l) {
				once = append(once, l)
			}
		}
		out[name] = once
	}
	return out
}

// StratumOf is the stratum of a cell: its scenario and, where kernels or the like
// are compared, which one.
func (d *Data) StratumOf(c *runs.Cell) Stratum {
	s := Stratum{Scenario: c.Get(runs.FactorScenario)}
	for _, f := range Factors() {
		if len(d.compared[f.Name]) > 0 {
			s = s.With(f, c.Get(f.Name))
		}
	}
	return s
}
