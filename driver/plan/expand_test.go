package plan

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func expandText(t *testing.T, text string) *Plan {
	t.Helper()
	s, err := Parse("t.toml", []byte(text), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(s, testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// golden compares with a file of testdata. To change one on purpose, write
// what the failing test prints into it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Errorf("%v; the test made:\n%s", err, got)
	} else if !bytes.Equal(got, want) {
		t.Errorf("differs from testdata/%s; the test made:\n%s", name, got)
	}
}

// The IDs of this cell were computed with sha256sum.
func TestIDsAreStable(t *testing.T) {
	c := newCell(map[string]string{"workload": "TCP_RR", "arm": "a", "policies": "10"}, Measure{})
	if c.ID != "13cb528679a1" || c.Setup != "ee337fb7f1d9" {
		t.Errorf("ID %s, setup %s", c.ID, c.Setup)
	}
}

// The golden plan holds IDs, factors and order. They are in published rows, so
// a change of this file is a change of what a plan is.
func TestGoldenPlan(t *testing.T) {
	text := strings.Replace(good, "blocks = 2\ntrials = 4", "blocks = 2\ntrials = 1", 1)
	text = strings.Replace(text, `["TCP_RR"]`, `["TCP_RR", "TCP_STREAM"]`, 1)
	p := expandText(t, strings.Replace(text, `["multi-host", "localhost"]`, `["localhost"]`, 1))
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", data)
	var shown bytes.Buffer
	Describe(&shown, p)
	golden(t, "plan.txt", shown.Bytes())
}

func TestGoldenPlanInVirtualTime(t *testing.T) {
	p := expandText(t, strings.Replace(virtual, "seeds = 2", "seeds = 1", 1))
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "virtual.json", data)
	var shown bytes.Buffer
	Describe(&shown, p)
	golden(t, "virtual.txt", shown.Bytes())
}

func TestDescribeSaysTheStoppingRule(t *testing.T) {
	var shown bytes.Buffer
	Describe(&shown, expandText(t, minimal+"[measure]\nblocks = 2\nstop = { ci = 0.025, min = 5, max = 30 }\n"))
	want := "trials     at most 30  (a cell: 5 to 30 in 2 blocks, until the interval of its median is within 2.5 %)\n"
	if !strings.Contains(shown.String(), want) {
		t.Errorf("got\n%swant %s", shown.String(), want)
	}
}

// The parts of a boot have its cells, each setup in one of them whole, and arms with the same number
// of policies together as far as that goes.
func TestPartsOfVirtualTime(t *testing.T) {
	whole, p := expandText(t, virtual), expandText(t, strings.Replace(virtual, "seeds = 2", "seeds = 2\nparts = 2", 1))
	if len(p.Blocks) != 8 || len(p.Trials) != len(whole.Trials) || !reflect.DeepEqual(p.Cells, whole.Cells) {
		t.Fatalf("%d blocks, %d trials; want 8 blocks and the cells and trials of the whole", len(p.Blocks), len(p.Trials))
	}
	want := Block{Number: 4, Seed: 1, Scenario: MultiHost, Part: 2}
	if p.Blocks[3] != want {
		t.Errorf("block 4 is %+v, want %+v", p.Blocks[3], want)
	}
	policies := map[int]map[string]int{} // trials, by block and number of policies
	for _, tr := range p.Trials {
		c, _ := p.CellByID(tr.Cell)
		if policies[tr.Block] == nil {
			policies[tr.Block] = map[string]int{}
		}
		policies[tr.Block][c.Get(FactorPolicies)]++
	}
	for block := 1; block <= 8; block += 2 {
		// Setups: iptables and docker at 0, iptables at 10, of two workloads each.
		if got := []map[string]int{policies[block], policies[block+1]}; !reflect.DeepEqual(got, []map[string]int{{"0": 4}, {"10": 2}}) {
			t.Errorf("blocks %d and %d have trials %v", block, block+1, got)
		}
	}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(data); err != nil {
		t.Error(err)
	}
	if _, err := Decode(bytes.Replace(data, []byte(`"part": 1`), []byte(`"part": 2`), 1)); err == nil {
		t.Error("a plan whose blocks are not its parts was read")
	}
}

// What starts sealed guests changes no trial.
func TestSealedIsNoDifference(t *testing.T) {
	a, b := expandText(t, virtual), expandText(t, strings.Replace(virtual, "[lab]", "[lab]\nsealed = \"qemu\"", 1))
	x, err := a.SameTrials()
	y, err2 := b.SameTrials()
	if x != y || err != nil || err2 != nil {
		t.Errorf("the trials differ (%v, %v)", err, err2)
	}
}

// A block of virtual time is one boot under one seed: every cell of its
// scenario, and no other, in an order of its own.
func TestBlocksOfVirtualTime(t *testing.T) {
	p := expandText(t, virtual)
	want := []Block{{Number: 1, Seed: 1, Scenario: Localhost}, {Number: 2, Seed: 1, Scenario: MultiHost},
		{Number: 3, Seed: 2, Scenario: Localhost}, {Number: 4, Seed: 2, Scenario: MultiHost}}
	if !slices.Equal(p.Blocks, want) {
		t.Fatalf("blocks %+v, want %+v", p.Blocks, want)
	}
	cells := map[int]map[string]bool{}
	orders := map[string]bool{}
	for _, b := range want {
		cells[b.Number] = map[string]bool{}
		order := ""
		for _, tr := range p.Trials {
			if tr.Block != b.Number {
				continue
			}
			c, _ := p.CellByID(tr.Cell)
			if c.Get(FactorScenario) != b.Scenario {
				t.Errorf("%s runs in block %d, which is %s", c.Title(), b.Number, b.Scenario)
			}
			cells[b.Number][c.ID] = true
			order += c.ID
		}
		orders[order] = true
		// Two numbers of policies and docker's one, two workloads each.
		if len(cells[b.Number]) != 6 {
			t.Errorf("block %d has %d cells, want 6", b.Number, len(cells[b.Number]))
		}
	}
	if !reflect.DeepEqual(cells[1], cells[3]) || !reflect.DeepEqual(cells[2], cells[4]) {
		t.Error("the blocks of a scenario do not have the same cells")
	}
	if len(orders) != 4 {
		t.Errorf("%d orders in 4 blocks, want each its own", len(orders))
	}
	checkAdjacent(t, p)
	for _, c := range p.Cells {
		if _, has := c.Factors[FactorSeed]; has {
			t.Errorf("%s has a seed: then its ID would differ from seed to seed", c.Title())
		}
	}
	if !slices.Contains(p.FactorNames(), FactorSeed) {
		t.Error("rows of virtual time have no column for the seed")
	}
}

func TestPlanSurvivesItsEncoding(t *testing.T) {
	p := expandText(t, good)
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, back) {
		t.Errorf("got  %+v\nwant %+v", back, p)
	}
}

func TestDecodeRefusesWhatDoesNotHangTogether(t *testing.T) {
	p := expandText(t, minimal)
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	first := p.Trials[0].Cell
	for name, edit := range map[string][2]string{
		"other schema":   {`"schema": 2`, `"schema": 3`},
		"no catalog":     {`"catalog": {`, `"catalog": null, "x": {`},
		"a catalog of 1": {`"schema": 2`, `"schema": 1`},
		"unknown filter": {`"name": "none"`, `"name": "nothing"`},
		"unknown field":  {`"schema": 2`, `"schema": 2, "x": 1`},
		"edited factor":  {`"policies": "0"`, `"policies": "1"`},
		"unknown cell":   {`"cell": "` + first, `"cell": "0` + first[1:]},
		"order":          {`"order": 2`, `"order": 3`},
		"trial repeated": {`"trial": 2`, `"trial": 1`},
	} {
		text := strings.Replace(string(data), edit[0], edit[1], 1)
		if text == string(data) {
			t.Fatalf("%s: edit changes nothing", name)
		}
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDecodeChecksBlocks(t *testing.T) {
	p := expandText(t, virtual)
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(data); err != nil || !reflect.DeepEqual(p, back) {
		t.Fatalf("got %+v, %v", back, err)
	}
	for name, edit := range map[string][2]string{
		"other seed":       {"\"number\": 2,\n      \"seed\": 1", "\"number\": 2,\n      \"seed\": 2"},
		"other number":     {`"number": 2`, `"number": 3`},
		"other scenario":   {"\"seed\": 1,\n      \"scenario\": \"localhost\"", "\"seed\": 1,\n      \"scenario\": \"multi-host\""},
		"fewer blocks":     {`"blocks": 4`, `"blocks": 3`},
		"trial elsewhere":  {"\"order\": 1,\n      \"block\": 1", "\"order\": 1,\n      \"block\": 2"},
		"trial in block 5": {"\"order\": 1,\n      \"block\": 1", "\"order\": 1,\n      \"block\": 5"},
	} {
		text := strings.Replace(string(data), edit[0], edit[1], 1)
		if text == string(data) {
			t.Fatalf("%s: edit changes nothing", name)
		}
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCells(t *testing.T) {
	p := expandText(t, good)
	// Arm a with two numbers of policies, b (no policies) with one; two scenarios.
	if len(p.Cells) != (2+1)*2 {
		t.Fatalf("%d cells, want 6", len(p.Cells))
	}
	id := regexp.MustCompile(`^[0-9a-f]{12}$`)
	for _, c := range p.Cells {
		if !id.MatchString(c.ID) || !id.MatchString(c.Setup) || c.ID == c.Setup {
			t.Errorf("cell has ID %q, setup %q", c.ID, c.Setup)
		}
		if c.Get(FactorArm) == "b" && c.Get(FactorPolicies) != "0" {
			t.Errorf("%s: an arm without policies has some", c.Title())
		}
		_, has := c.Factors["state"]
		if want := c.Get(FactorDatapath) == "iptables"; has != want {
			t.Errorf("%s: option state is a factor: %v, want %v", c.Title(), has, want)
		}
	}
}

// TestClients: numbers of clients are a factor of every cell where the file names
// them, and of none where it does not.
func TestClients(t *testing.T) {
	for _, c := range expandText(t, good).Cells {
		if _, has := c.Factors[FactorClients]; has {
			t.Errorf("cell %s has the factor %s", c.Title(), FactorClients)
		}
	}
	p := expandText(t, strings.Replace(good, "policies = [0, 10]", "policies = [0, 10]\nclients = [1, 4]", 1))
	if got := p.Levels(FactorClients); !slices.Equal(got, []string{"1", "4"}) {
		t.Errorf("levels %v, want 1 and 4", got)
	}
	if plain := expandText(t, good); len(p.Cells) != 2*len(plain.Cells) || len(p.Trials) != 2*len(plain.Trials) {
		t.Errorf("%d cells and %d trials, want twice %d and %d", len(p.Cells), len(p.Trials), len(plain.Cells), len(plain.Trials))
	}
}

// TestStreams: numbers of streams are a factor of the workload that can have them,
// and their cells share one apply.
func TestStreams(t *testing.T) {
	both := strings.Replace(good, `workloads = ["TCP_RR"]`, `workloads = ["TCP_STREAM", "TCP_RR"]`, 1)
	plain, p := expandText(t, both), expandText(t, strings.Replace(both, "policies = [0, 10]", "policies = [0, 10]\nstreams = [1, 4, 16]", 1))
	if got := p.Levels(FactorStreams); !slices.Equal(got, []string{"1", "4", "16"}) {
		t.Errorf("levels %v, want 1, 4 and 16", got)
	}
	if p.Setups() != plain.Setups() || len(p.Cells) != 2*len(plain.Cells) {
		t.Errorf("%d setups and %d cells, want %d and %d", p.Setups(), len(p.Cells), plain.Setups(), 2*len(plain.Cells))
	}
	for _, c := range p.Cells {
		if has := c.Get(FactorStreams) != ""; has != (c.Get(FactorWorkload) == "TCP_STREAM") {
			t.Errorf("cell %s has streams: %v", c.Title(), has)
		}
	}
}

// TestCount: cells measured by transactions say so instead of a duration, share
// their setup with those that run for a time, and leave these as they were.
func TestCount(t *testing.T) {
	both := strings.Replace(good, `workloads = ["TCP_RR"]`, `workloads = ["TCP_STREAM", "TCP_RR"]`, 1)
	plain, p := expandText(t, both), expandText(t, strings.Replace(both, "[matrix]", "[measure.count]\nTCP_RR = 1700\n[matrix]", 1))
	if p.Setups() != plain.Setups() || len(p.Cells) != len(plain.Cells) {
		t.Errorf("%d setups and %d cells, want %d and %d", p.Setups(), len(p.Cells), plain.Setups(), len(plain.Cells))
	}
	for i, c := range p.Cells {
		counted := c.Get(FactorWorkload) == "TCP_RR"
		if got := c.Int(FactorCount); (got == 1700) != counted || (c.Get(FactorDuration) == "") != counted || (c.Get(FactorWarmup) == "") != counted {
			t.Errorf("cell %s: %v", c.Title(), c.Factors)
		}
		if (c.ID == plain.Cells[i].ID) == counted || c.Setup != plain.Cells[i].Setup {
			t.Errorf("cell %s has the ID %s and setup %s, without a count %s and %s", c.Title(), c.ID, c.Setup, plain.Cells[i].ID, plain.Cells[i].Setup)
		}
	}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(data); err != nil {
		t.Error(err)
	}
	if p.Measuring() >= plain.Measuring() {
		t.Errorf("measuring takes %v, by time %v", p.Measuring(), plain.Measuring())
	}
}

func TestNoPoliciesRunsAtZeroEvenIfTheListLacksIt(t *testing.T) {
	p := expandText(t, strings.Replace(minimal, "policies = [0]", "policies = [5, 9]", 1))
	if got := p.Levels(FactorPolicies); !slices.Equal(got, []string{"0"}) {
		t.Errorf("policies %v, want 0 only", got)
	}
}

func TestLocalKernelIsTheHosts(t *testing.T) {
	p := expandText(t, minimal+"[lab]\nprovider = \"local\"\n")
	if got := p.Cells[0].Get(FactorKernel); got != "host" {
		t.Errorf("kernel %q, want host", got)
	}
}

const two = `schema = 1
name = "two"
[measure]
blocks = 3
trials = 4
duration = "10s"
warmup = "2s"
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [0, 1, 10, 100]
[[arm]]
name = "a"
datapath = "iptables"
[[arm]]
name = "a-again"
datapath = "iptables"
[[arm]]
name = "d"
datapath = "docker"
`

func TestOrder(t *testing.T) {
	p := expandText(t, two)
	type repetition struct{ block, trial int }
	times := map[Trial]int{}
	var last repetition
	for i, tr := range p.Trials {
		if tr.Order != i+1 {
			t.Fatalf("trial %d has order %d", i+1, tr.Order)
		}
		now := repetition{tr.Block, tr.Trial}
		if now.block < last.block || now.block == last.block && now.trial < last.trial {
			t.Fatalf("repetition %v comes after %v: repetition is the outer loop", now, last)
		}
		last = now
		tr.Order = 0
		times[tr]++
	}
	if want := len(p.Cells) * 3 * 4; len(p.Trials) != want || len(times) != want {
		t.Errorf("%d trials, %d different, want %d of both", len(p.Trials), len(times), want)
	}
	checkAdjacent(t, p)
	checkShuffled(t, p)
}

// checkAdjacent: the workloads of a setup follow each other, since they share
// one apply.
func checkAdjacent(t *testing.T, p *Plan) {
	t.Helper()
	for i := 0; i < len(p.Trials); i += 2 {
		a, _ := p.CellByID(p.Trials[i].Cell)
		b, _ := p.CellByID(p.Trials[i+1].Cell)
		if a.Setup != b.Setup || a.ID == b.ID {
			t.Fatalf("trials %d and %d are of setups %s and %s", i+1, i+2, a.Setup, b.Setup)
		}
	}
}

// checkShuffled: neither setups nor workloads keep one order in every repetition.
func checkShuffled(t *testing.T, p *Plan) {
	t.Helper()
	firsts, firstWorkloads := map[string]bool{}, map[string]bool{}
	for i := 0; i < len(p.Trials); i += len(p.Cells) {
		c, _ := p.CellByID(p.Trials[i].Cell)
		firsts[c.Setup] = true
		firstWorkloads[c.Get(FactorWorkload)] = true
	}
	if len(firsts) < 3 || len(firstWorkloads) < 2 {
		t.Errorf("12 repetitions begin with %d setups and %d workloads, want variety", len(firsts), len(firstWorkloads))
	}
}

func TestOrderDependsOnTheSeedOnly(t *testing.T) {
	a, b := expandText(t, two), expandText(t, two)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same experiment expands to two plans")
	}
	other := expandText(t, strings.Replace(two, "schema = 1", "schema = 1\nseed = 2", 1))
	if reflect.DeepEqual(a.Trials, other.Trials) {
		t.Error("another seed gives the same order")
	}
	if !reflect.DeepEqual(a.Cells, other.Cells) {
		t.Error("another seed gives other cells")
	}
}

func TestEstimate(t *testing.T) {
	p := expandText(t, two)
	// 18 setups and 36 cells, 12 times each.
	if p.Setups() != 216 || p.Measuring() != 432*12*time.Second {
		t.Errorf("%d setups, measuring %v", p.Setups(), p.Measuring())
	}
	want := 432*(12+3)*time.Second + 216*5*time.Second
	if got := p.Estimate(5*time.Second, 3*time.Second); got != want {
		t.Errorf("estimate %v, want %v", got, want)
	}
}

func TestExpandRefusesASpecThatParseNeverMade(t *testing.T) {
	s, err := Parse("t.toml", []byte(minimal), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Spec){
		"unknown datapath": func(s *Spec) { s.Arms = []Arm{{Name: "a", Datapath: "none"}} },
		"factor's name":    func(s *Spec) { s.Arms = []Arm{{Name: "a", Datapath: "docker", Options: map[string]string{"arm": "x"}}} },
		"arm twice":        func(s *Spec) { s.Arms = append(slices.Clone(s.Arms), s.Arms...) },
		"no cells":         func(s *Spec) { s.Workloads = nil },
	} {
		bad := s
		edit(&bad)
		if _, err := Expand(bad, testCatalog()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFilter(t *testing.T) {
	p := expandText(t, two)
	for expr, want := range map[string]int{
		"":      36,
		"arm=d": 4,
		"arm=a|d,scenario=localhost, workload = TCP_RR": 5,
		"arm!=d":           32,
		"arm!=a|a-again":   4,
		"policies=1|100":   16,
		"state=as-study":   32,
		"state!=as-study":  4, // the arm without that option
		"arm=a,policies=0": 4,
	} {
		match, err := p.Filter(expr)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		n := 0
		for _, c := range p.Cells {
			if match(c) {
				n++
			}
		}
		if n != want {
			t.Errorf("%q selects %d cells, want %d", expr, n, want)
		}
	}
}

func TestFilterSaysWhatWouldBeRight(t *testing.T) {
	p := expandText(t, two)
	for expr, want := range map[string]string{
		"arm":             `"arm" is not a condition, want FACTOR=LEVEL or FACTOR!=LEVEL`,
		"arm=d,":          `"" is not a condition, want FACTOR=LEVEL or FACTOR!=LEVEL`,
		"amr=d":           `(did you mean "arm"?)`,
		"scenario=local":  `no cell has scenario "local", want one of localhost, multi-host`,
		"arm=d|e":         `no cell has arm "e", want one of a, a-again, d`,
		"arm=d,arm=a":     `selects none of the 36 cells`,
		"arm=d, policies": `"policies" is not a condition`,
	} {
		if _, err := p.Filter(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", expr, err, want)
		}
	}
}

// A single version of a kernel is as good a level as a series, and errors do not list the
// many that there are.
func TestKernelsMayBeSingleVersions(t *testing.T) {
	p := expandText(t, strings.Replace(good, `kernel = "6.1"`, `kernel = "7.0.13"`, 1))
	if got := p.Cells[0].Get(FactorKernel); got != "7.0.13" {
		t.Errorf("the kernel of a cell is %q, want 7.0.13", got)
	}
	p = expandText(t, strings.Replace(virtual, "policies = [0, 10]", "policies = [0, 10]\nkernels = [\"7.0.13\", \"6.12\"]", 1))
	if !slices.Equal(p.Spec.Kernels, []string{"7.0.13", "6.12"}) {
		t.Errorf("kernels are %v", p.Spec.Kernels)
	}
	_, err := Parse("t.toml", []byte(strings.Replace(good, `kernel = "6.1"`, `kernel = "7.0.14"`, 1)), testCatalog())
	if want := `unknown level "7.0.14", want "6.1" or "6.12" (did you mean "7.0.13"?)`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want one with %s", err, want)
	}
}

// Where kernels are compared, each is booted as often as the experiment says, in
// an order of the seed's in each repetition; a cell runs under its own only.
func TestKernelsAreFactorsOfCellsAndBlocks(t *testing.T) {
	wall := strings.Replace(strings.Replace(good, "kernel = \"6.1\"\n", "", 1), "policies = [0, 10]", "policies = [0, 10]\nkernels = [\"6.1\", \"6.12\"]", 1)
	sealed := strings.Replace(virtual, "policies = [0, 10]", "policies = [0, 10]\nkernels = [\"6.1\", \"6.12\"]", 1)
	for name, text := range map[string]string{"wall": wall, "virtual": sealed} {
		p := expandText(t, text)
		scenarios := 1
		if name == "virtual" {
			scenarios = len(p.Spec.Scenarios)
		}
		if want := 2 * 2 * scenarios; len(p.Blocks) != want || p.Spec.Measure.Blocks != want {
			t.Fatalf("%s: %d blocks and Measure.Blocks %d, want %d", name, len(p.Blocks), p.Spec.Measure.Blocks, want)
		}
		boots := map[string]int{}
		for _, b := range p.Blocks {
			boots[b.Kernel]++
			if p.LabOf(b.Number).Kernel != b.Kernel || p.BootName(b.Number) != b.Kernel {
				t.Errorf("%s: block %d boots %q, its lab says %q", name, b.Number, b.Kernel, p.LabOf(b.Number).Kernel)
			}
			if (b.Seed > 0) != (name == "virtual") || (b.Scenario != "") != (name == "virtual") {
				t.Errorf("%s: block %+v", name, b)
			}
		}
		if boots["6.1"] != boots["6.12"] || len(boots) != 2 {
			t.Errorf("%s: boots of kernels %v", name, boots)
		}
		trials := map[string]int{}
		for _, tr := range p.Trials {
			c, _ := p.CellByID(tr.Cell)
			trials[tr.Cell]++
			if b, _ := p.BlockByNumber(tr.Block); b.Kernel != c.Get(FactorKernel) {
				t.Fatalf("%s: a cell of %s runs in block %+v", name, c.Get(FactorKernel), b)
			}
		}
		for _, c := range p.Cells {
			if want := p.Spec.CellBlocks() * p.Spec.Measure.Trials; trials[c.ID] != want || p.Spec.CellBlocks() != 2 {
				t.Errorf("%s: cell %s has %d trials, want %d", name, c.ID, trials[c.ID], want)
			}
		}
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(data)
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%s: decoded plan differs, error %v", name, err)
		}
		p.Blocks[0].Kernel, p.Blocks[scenarios].Kernel = p.Blocks[scenarios].Kernel, p.Blocks[0].Kernel
		if data, err = p.Encode(); err == nil {
			_, err = Decode(data)
		}
		if err == nil {
			t.Errorf("%s: a plan with the kernels of two blocks swapped was accepted", name)
		}
	}
	orders := map[string]bool{}
	for seed := range 8 {
		p := expandText(t, strings.Replace(wall, "seed = 7", fmt.Sprintf("seed = %d", seed), 1))
		text := ""
		for _, b := range p.Blocks {
			text += b.Kernel + " "
		}
		orders[text] = true
	}
	if len(orders) < 2 {
		t.Errorf("eight seeds order the kernels in one way only: %v", orders)
	}
}

// An experiment that compares no kernels has the plan that it always had.
func TestKernelOfTheLabIsNoAxis(t *testing.T) {
	if p := expandText(t, good); p.Spec.compared() || len(p.Blocks) > 0 || p.BootName(1) != "" || p.LabOf(1).Kernel != "6.1" {
		t.Errorf("compared %v, blocks %v, lab %+v", p.Spec.compared(), p.Blocks, p.LabOf(1))
	}
}
