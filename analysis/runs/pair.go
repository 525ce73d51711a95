package runs

import (
	"cmp"

	"hookbed/analysis/catalog"
)

// MinBlocks is the number of shared blocks from which on cells are paired by
// block: the spread of fewer blocks is too uncertain for an interval.
const MinBlocks = 3

// MinSeeds is MinBlocks in virtual time, where only the seed varies, and the results
// vary little with it: the interval by Student's t of two pairs is wide, but it has
// its stated confidence (docs/statistics.md). The extremes of two trials would show
// nothing.
const MinSeeds = 2

// Enough is the number of shared blocks of this kind from which on cells are
// paired.
func Enough(id BlockID) int {
	if id.Seed != "" {
		return MinSeeds
	}
	return MinBlocks
}

// BlockID names a block. The blocks that one was parted into have one name: what they measured has
// the seed, kernel and scenario in common, as in one boot.
type BlockID struct {
	Run    string
	Number int
	Seed   string // "" on wall clocks
}

// Block is the usable values of a metric in one block.
type Block struct {
	ID     BlockID
	Values []float64
}

// Blocks are the usable values of a metric by block, in order.
func (c *Cell) Blocks(metric string) []Block {
	index := map[BlockID]int{}
	var out []Block
	for _, t := range c.Trials {
		v, ok := t.Value(metric)
		if !ok || !t.OK() {
			continue
		}
		id := BlockID{t.Run, cmp.Or(t.boot, t.Block), t.Seed}
		i, known := index[id]
		if !known {
			i = len(out)
			index[id] = i
			out = append(out, Block{ID: id})
		}
		out[i].Values = append(out[i].Values, v)
	}
	return out
}

// Pairs are two samples to be compared.
type Pairs struct {
	A, B []float64
	// Paired: A[i] and B[i] are the estimates of one block. Otherwise the values are
	// of single trials, and the samples are independent.
	Paired bool
	Blocks int // paired: the shared blocks; else the smaller number of blocks
}

// Pair arranges a metric of two cells for comparison: by block, each block's
// trials reduced to one number by estimate, if the cells share Enough blocks, so
// that differences between blocks cancel; else trial by trial.
func Pair(a, b *Cell, metric string, estimate func([]float64) float64) Pairs {
	return PairBlocks(a.Blocks(metric), b.Blocks(metric), estimate)
}

// PairBlocks is Pair for blocks that the caller chose.
func PairBlocks(a, b []Block, estimate func([]float64) float64) Pairs {
	of := map[BlockID][]float64{}
	for _, blk := range b {
		of[blk.ID] = blk.Values
	}
	p := Pairs{Paired: true}
	for _, blk := range a {
		if other := of[blk.ID]; other != nil {
			p.A, p.B = append(p.A, estimate(blk.Values)), append(p.B, estimate(other))
		}
	}
	if p.Blocks = len(p.A); p.Blocks > 0 && p.Blocks >= Enough(a[0].ID) {
		return p
	}
	return Pairs{A: values(a), B: values(b), Blocks: min(len(a), len(b))}
}

func values(blocks []Block) []float64 {
	var out []float64
	for _, b := range blocks {
		out = append(out, b.Values...)
	}
	return out
}

// HeadlineOf is the first headline metric of the workload of two cells that one of
// them has; "" if neither has any.
func HeadlineOf(words catalog.Catalog, a, b *Cell) string {
	w, _ := words.Workload(a.Get(FactorWorkload))
	for _, m := range w.Headline {
		if len(a.Samples(m.Name)) > 0 || len(b.Samples(m.Name)) > 0 {
			return m.Name
		}
	}
	return ""
}
