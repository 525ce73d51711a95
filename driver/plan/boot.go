package plan

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// Boot is what machines of a block are booted with, where an experiment
// compares that: a kernel and a network card. Their levels are factors of the
// cell, so numbers of two of them are never put together.
type Boot struct {
	Kernel string
	NIC    NIC
}

// compared says whether the experiment compares boots, so that a block is one of them.
func (s Spec) compared() bool { return len(s.Kernels)+len(s.NICs) > 0 }

// Boots lists what the experiment boots, in the order of the file; one of the
// lab's own where it compares none.
func (s Spec) Boots() []Boot {
	kernels, nics := s.Kernels, s.NICs
	if len(kernels) == 0 {
		kernels = []string{s.Lab.Kernel}
	}
	if len(nics) == 0 {
		nics = []NIC{s.Lab.NIC}
	}
	var out []Boot
	for _, k := range kernels {
		for _, n := range nics {
			out = append(out, Boot{Kernel: k, NIC: n})
		}
	}
	return out
}

// CellBlocks is the number of boots that each cell is measured in.
func (s Spec) CellBlocks() int {
	n := s.Measure.Blocks / len(s.Boots())
	if s.Lab.Clock == ClockVirtual {
		n = s.Measure.Seeds
	}
	return max(1, n)
}

// with is the lab as one boot has it.
func (l Lab) with(b Boot) Lab {
	l.Kernel, l.NIC = b.Kernel, b.NIC
	switch {
	case b.NIC.Queues > 0:
		l.Queues = b.NIC.Queues
	case b.NIC.Card() != NICVirtio:
		l.Queues = 1
	}
	return l
}

// BootName names a boot among those that an experiment compares; "" where it
// compares none.
func (p *Plan) BootName(block int) string {
	b, _ := p.BlockByNumber(block)
	switch {
	case b.NIC == "":
		return b.Kernel
	case b.Kernel == "":
		return b.NIC
	}
	return b.Kernel + " " + b.NIC
}

// LabOf is the lab of a block.
func (p *Plan) LabOf(block int) Lab {
	b, ok := p.BlockByNumber(block)
	for _, boot := range p.Spec.Boots() {
		if ok && b.of(p.Spec, boot) {
			return p.Spec.Lab.with(boot)
		}
	}
	return p.Spec.Lab.with(p.Spec.Boots()[0])
}

// of says whether a block boots this.
func (b Block) of(s Spec, boot Boot) bool {
	return (len(s.Kernels) == 0 || b.Kernel == boot.Kernel) && (len(s.NICs) == 0 || b.NIC == boot.NIC.String())
}

// has says whether a cell runs in a block.
func (b Block) has(c Cell) bool {
	return (b.Scenario == "" || c.Get(FactorScenario) == b.Scenario) && (b.Kernel == "" || c.Get(FactorKernel) == b.Kernel) &&
		(b.NIC == "" || c.Get(FactorNIC) == b.NIC) && (b.Cell == "" || c.ID == b.Cell)
}

// blocks lists the boots of a plan whose blocks differ.
func (p *Plan) blocks() []Block {
	if p.Spec.Traced != nil {
		return p.tracedBlocks()
	}
	return blocks(p.Spec)
}

// blocks lists the boots of an experiment whose blocks differ: in virtual time
// under each seed one for each scenario, and in each repetition every boot that
// is compared, in an order that the seed chooses.
func blocks(s Spec) []Block {
	virtual := s.Lab.Clock == ClockVirtual
	if !virtual && !s.compared() {
		return nil
	}
	scenarios := []string{""}
	if virtual {
		scenarios = s.Scenarios
	}
	rng := rand.New(rand.NewPCG(s.Seed, bootStream))
	var out []Block
	for i := range s.CellBlocks() {
		boots := s.Boots()
		rng.Shuffle(len(boots), func(i, j int) { boots[i], boots[j] = boots[j], boots[i] })
		for _, boot := range boots {
			for _, scenario := range scenarios {
				b := Block{Scenario: scenario}
				if virtual {
					b.Seed = i + 1
				}
				if len(s.Kernels) > 0 {
					b.Kernel = boot.Kernel
				}
				if len(s.NICs) > 0 {
					b.NIC = boot.NIC.String()
				}
				out = appendParts(out, b, s.Measure.Parts)
			}
		}
	}
	return out
}

// appendParts appends a block, or the parts of it, with their numbers.
func appendParts(out []Block, b Block, parts int) []Block {
	for part := range max(1, parts) {
		b.Number = len(out) + 1
		if parts > 1 {
			b.Part = part + 1
		}
		out = append(out, b)
	}
	return out
}

// partOf says for each cell, by its ID, which part of its boot it is in; nil where boots have no
// parts. Setups are parted in the order of their numbers of policies, so that arms with the same
// number, which are compared with each other, are in one part as far as that goes.
func (p *Plan) partOf() map[string]int {
	parts := p.Spec.Measure.Parts
	if parts <= 1 {
		return nil
	}
	type boot struct{ scenario, kernel, nic string }
	setups := map[boot][]string{} // in order
	cells := slices.Clone(p.Cells)
	slices.SortStableFunc(cells, func(a, b Cell) int { return cmp.Compare(a.Int(FactorPolicies), b.Int(FactorPolicies)) })
	of := func(c Cell) boot { return boot{c.Get(FactorScenario), c.Get(FactorKernel), c.Get(FactorNIC)} }
	for _, c := range cells {
		if at := of(c); !slices.Contains(setups[at], c.Setup) {
			setups[at] = append(setups[at], c.Setup)
		}
	}
	out := map[string]int{}
	for _, c := range cells {
		all := setups[of(c)]
		out[c.ID] = slices.Index(all, c.Setup)*parts/len(all) + 1
	}
	return out
}

// bootStream keeps the random numbers that order boots apart from those that order trials.
const bootStream = 1

// BlockByNumber finds a block that differs from others; ok is false where all
// blocks are alike.
func (p *Plan) BlockByNumber(n int) (b Block, ok bool) {
	if n < 1 || n > len(p.Blocks) {
		return Block{}, false
	}
	return p.Blocks[n-1], true
}

// cellsIn are the cells that run in a block.
func (p *Plan) cellsIn(block int) []Cell {
	b, ok := p.BlockByNumber(block)
	if !ok {
		return p.Cells
	}
	part := p.partOf()
	return slices.DeleteFunc(slices.Clone(p.Cells), func(c Cell) bool { return !b.has(c) || b.Part != part[c.ID] })
}
