package report

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

// Factors of a stratum: what an experiment may boot its machines with, and how
// many connections a client has.
const (
	factorKernel = "kernel"
	factorNIC    = "nic"
)

// stratumFactor is a factor that a plan may compare, with the words for its levels.
type stratumFactor struct{ factor, title, one string }

func stratumFactors() []stratumFactor {
	return []stratumFactor{
		{factorKernel, "Kernels", "kernel"},
		{factorNIC, "Network cards", "card"},
		{runs.FactorStreams, "Streams", "streams"},
	}
}

// String names the stratum for people: "localhost, kernel 6.12".
func (s Stratum) String() string {
	name := s.Scenario
	for _, f := range stratumFactors() {
		if level := s.level(f.factor); level != "" {
			name += ", " + f.one + " " + level
		}
	}
	return name
}

// level is the level of a factor, "" where the stratum has none.
func (s Stratum) level(factor string) string { return *s.field(factor) }

// with is the stratum with another level of a factor; "" takes it out.
func (s Stratum) with(factor, level string) Stratum {
	*s.field(factor) = level
	return s
}

// field is the one that holds the level of a factor.
func (s *Stratum) field(factor string) *string {
	switch factor {
	case factorKernel:
		return &s.Kernel
	case factorNIC:
		return &s.NIC
	case runs.FactorStreams:
		return &s.Streams
	}
	return &s.Scenario
}

// compared lists the factors of a stratum that vary within one plan, with their
// levels in the order of the plan. What merged runs differ by is no comparison
// that anyone planned: residues warns of it.
func compared(all []runs.Run) map[string][]string {
	out := map[string][]string{}
	for _, r := range all {
		if r.Plan == nil {
			continue
		}
		for _, b := range stratumFactors() {
			var levels []string
			for _, c := range r.Plan.Cells {
				if l := c.Factors[b.factor]; l != "" && !slices.Contains(levels, l) {
					levels = append(levels, l)
				}
			}
			if len(levels) > 1 {
				out[b.factor] = append(out[b.factor], levels...)
			}
		}
	}
	for f, levels := range out {
		var once []string
		for _, l := range levels {
			if !slices.Contains(once, l) {
				once = append(once, l)
			}
		}
		out[f] = once
	}
	return out
}

// stratumOf is the stratum of a cell: its scenario and, where kernels or the like
// are compared, which one.
func (d *dataset) stratumOf(c *runs.Cell) Stratum {
	s := Stratum{Scenario: c.Get(runs.FactorScenario)}
	for _, f := range stratumFactors() {
		if len(d.compared[f.factor]) > 0 {
			s = s.with(f.factor, c.Get(f.factor))
		}
	}
	return s
}
