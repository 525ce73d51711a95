package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// PlanSchema is the version of plan.json. Schema 1 had no catalog
// (catalog.Schema1 has its words); it is still read, and written where it is kept.
const PlanSchema = 2

const kernelOfHost = "host"

// Expand turns a Spec into its Plan. The result depends on nothing but its
// arguments. An error means that the Spec does not fit the catalog, which Parse
// would have found.
func Expand(s Spec, cat Catalog) (*Plan, error) {
	p := &Plan{Schema: PlanSchema, Spec: s}
	for _, arm := range s.Arms {
		cells, err := cellsOf(s, arm, cat)
		if err != nil {
			return nil, fmt.Errorf("expand arm %q: %w", arm.Name, err)
		}
		p.Cells = append(p.Cells, cells...)
	}
	if len(p.Cells) == 0 {
		return nil, errors.New("expand: the experiment has no cells")
	}
	if err := checkIDs(p.Cells); err != nil {
		return nil, err
	}
	chosen := cat.chosen(p)
	p.Catalog = &chosen
	p.attach()
	p.Blocks = p.blocks()
	p.Trials = order(p)
	return p, nil
}

// policiesOf lists the numbers of policies an arm runs with. One that enforces
// nothing is the same at every N, so it runs once, at 0.
func policiesOf(d DatapathEntry, s Spec) []int {
	if d.NoPolicies {
		return []int{0}
	}
	return s.Policies
}

// clientsOf lists the numbers of clients; 0 means an experiment that names
// none, whose cells have one client and no such factor.
func clientsOf(s Spec) []int {
	if len(s.Clients) == 0 {
		return []int{0}
	}
	return s.Clients
}

func cellsOf(s Spec, arm Arm, cat Catalog) ([]Cell, error) {
	d, ok := cat.datapath(arm.Datapath)
	if !ok {
		return nil, fmt.Errorf("unknown datapath %q", arm.Datapath)
	}
	var out []Cell
	for _, boot := range s.Boots() {
		for _, scenario := range s.Scenarios {
			for _, n := range policiesOf(d, s) {
				for _, clients := range clientsOf(s) {
					common, err := factors(s, boot, arm, d)
					if err != nil {
						return nil, err
					}
					common[FactorScenario], common[FactorPolicies] = scenario, strconv.Itoa(n)
					if clients > 0 {
						common[FactorClients] = strconv.Itoa(clients)
					}
					out = append(out, perWorkload(s, common, cat)...)
				}
			}
		}
	}
	return out, nil
}

// perWorkload makes one cell for each workload and number of its streams, which
// share all other factors.
func perWorkload(s Spec, common map[string]string, cat Catalog) (out []Cell) {
	for _, workload := range s.Workloads {
		for _, streams := range streamsOf(s, workload, cat) {
			f := maps.Clone(common)
			f[FactorWorkload] = workload
			if streams > 0 {
				f[FactorStreams] = strconv.Itoa(streams)
			}
			if n := s.Measure.Count[workload]; n > 0 {
				f[FactorCount] = strconv.Itoa(n)
				delete(f, FactorDuration)
				delete(f, FactorWarmup)
			}
			out = append(out, newCell(f, s.Measure))
		}
	}
	return out
}

// streamsOf lists a workload's numbers of streams; 0 means cells without
// that factor.
func streamsOf(s Spec, workload string, cat Catalog) []int {
	if w, _ := cat.workload(workload); len(s.Streams) == 0 || !w.Streams {
		return []int{0}
	}
	return s.Streams
}

// factors are the levels that all cells of an arm under one boot share.
func factors(s Spec, boot Boot, arm Arm, d DatapathEntry) (map[string]string, error) {
	kernel := boot.Kernel
	if !s.Lab.Capabilities().VMs {
		kernel = kernelOfHost
	}
	f := map[string]string{
		FactorArm:        arm.Name,
		FactorDatapath:   d.Name,
		FactorFabric:     d.Fabric,
		FactorFilter:     d.Filter,
		FactorScenario:   "",
		FactorWorkload:   "",
		FactorPolicies:   "",
		FactorProvider:   s.Lab.Provider,
		FactorEndpoint:   s.Lab.Endpoint,
		FactorKernel:     kernel,
		FactorDuration:   s.Measure.Duration.String(),
		FactorWarmup:     s.Measure.Warmup.String(),
		FactorCongestion: s.Measure.Congestion,
		FactorClientCPU:  strconv.Itoa(s.Measure.ClientCPU),
		FactorServerCPU:  strconv.Itoa(s.Measure.ServerCPU),
		FactorClock:      s.Lab.Clock,
	}
	if len(s.NICs) > 0 || !boot.NIC.Plain() {
		f[FactorNIC] = boot.NIC.String()
	}
	if boot.NIC.MTU > 0 {
		f[FactorMTU] = strconv.Itoa(boot.NIC.MTU)
	}
	if s.Own != nil {
		f[FactorPolicySet] = s.Own.digest()
	}
	for key, level := range arm.Options {
		if _, taken := f[key]; taken {
			return nil, fmt.Errorf("option %q has the name of a factor", key)
		}
		f[key] = level
	}
	return f, nil
}

// newCell identifies a cell by its factors, and by those that it shares with
// cells that differ only in what is measured and how long.
func newCell(f map[string]string, m Measure) Cell {
	setup := maps.Clone(f)
	delete(setup, FactorWorkload)
	delete(setup, FactorStreams)
	if _, counted := f[FactorCount]; counted {
		delete(setup, FactorCount)
		setup[FactorDuration], setup[FactorWarmup] = m.Duration.String(), m.Warmup.String()
	}
	return Cell{ID: digest(f), Setup: digest(setup), Factors: f}
}

// digest is the first 12 hex digits of the SHA-256 of the lines "factor=level",
// sorted.
func digest(f map[string]string) string {
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(h, "%s=%s\n", k, f[k])
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// checkIDs guards against two cells under one ID: the same combination twice,
// or, once in 2^48 pairs, a collision.
func checkIDs(cells []Cell) error {
	seen := map[string]bool{}
	for _, c := range cells {
		if seen[c.ID] {
			return fmt.Errorf("expand: two cells have the ID %s, the second is %s", c.ID, c.Title())
		}
		seen[c.ID] = true
	}
	return nil
}

// order lists every trial in the order it runs. Repetition is the outer loop:
// per block and trial all setups, shuffled, and within a setup its workloads,
// shuffled, next to each other because they share one apply. All shuffles draw
// from one PCG stream that starts at the seed.
func order(p *Plan) []Trial {
	rng := rand.New(rand.NewPCG(p.Spec.Seed, 0))
	var out []Trial
	for block := range p.Spec.Measure.Blocks {
		setups := bySetup(p.cellsIn(block + 1))
		for trial := range p.Spec.Measure.Trials {
			rng.Shuffle(len(setups), func(i, j int) { setups[i], setups[j] = setups[j], setups[i] })
			for _, cells := range setups {
				rng.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
				for _, id := range cells {
					out = append(out, Trial{Order: len(out) + 1, Block: block + 1, Trial: trial + 1, Cell: id})
				}
			}
		}
	}
	return out
}

// bySetup groups the IDs of cells by setup, both in the order of the cells.
func bySetup(cells []Cell) [][]string {
	var out [][]string
	at := map[string]int{}
	for _, c := range cells {
		i, ok := at[c.Setup]
		if !ok {
			i = len(out)
			at[c.Setup] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], c.ID)
	}
	return out
}

// Setups is how many times a setup is applied in the whole plan.
func (p *Plan) Setups() int { return p.SetupsOf(func(Cell) bool { return true }) }

// SetupsOf is how many times setups of such cells are applied in the whole plan.
func (p *Plan) SetupsOf(is func(Cell) bool) int {
	n := 0
	for block := range p.Spec.Measure.Blocks {
		cells := slices.DeleteFunc(slices.Clone(p.cellsIn(block+1)), func(c Cell) bool { return !is(c) })
		n += len(bySetup(cells)) * p.Spec.Measure.Trials
	}
	return n
}

// countedRate is the transactions a second that estimates assume of trials that
// are measured by their number: what an emulated machine does.
const countedRate = 2000

// Measuring is the time spent in workloads, warm-up included. That of trials
// measured by a number of transactions is an estimate.
func (p *Plan) Measuring() time.Duration {
	counts := map[string]int{} // by cell
	for _, c := range p.Cells {
		counts[c.ID] = c.Int(FactorCount)
	}
	var total time.Duration
	for _, t := range p.Trials {
		if n := counts[t.Cell]; n > 0 {
			total += time.Duration(n) * time.Second / countedRate
			continue
		}
		total += p.Spec.Measure.Duration + p.Spec.Measure.Warmup
	}
	return total
}

// Estimate is how long the plan takes, given what applying a setup and what
// running a trial cost in addition to the workload. Booting the lab comes on top.
func (p *Plan) Estimate(perSetup, perTrial time.Duration) time.Duration {
	return p.Measuring() + time.Duration(p.Setups())*perSetup + time.Duration(len(p.Trials))*perTrial
}
