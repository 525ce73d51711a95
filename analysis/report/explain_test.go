package report

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

// cross makes a run of invented numbers over fabric x filter, whose parts are
// known: a fabric's cost, a filter's, and each policy's.
type cross struct {
	arms     []crossArm
	policies []int
	blocks   int
	trials   int
	spread   float64 // relative, of a trial
	clock    string
	halves   bool // the plan asks for the faster half
	kernels  []string
	stream   bool // throughput, which is better the higher, in the place of latency
}

type crossArm struct {
	name, fabric, filter string
	options              map[string]string
	cost                 func(n int) float64 // seconds a transaction
	status               string              // of every row; "" is ok
}

func (c cross) write(t *testing.T) string {
	t.Helper()
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(11, 11))
	factors := []string{"scenario", "workload", "arm", "policies", "datapath", "fabric", "filter", "clock", "kernel", "seed", "policy", "state", "placement", "enforce", "delivery", "attach", "where", "family", "overlay", "udpcsum", "prealloc"}
	data, order := record.EncodeHeader(factors), 0
	for block := 1; block <= c.blocks; block++ {
		boot := math.Exp(rng.NormFloat64() * 0.1) // what a boot changes; cancels in pairs
		if c.blocks < runs.MinBlocks {
			boot = 1
		}
		for trial := 1; trial <= c.trials; trial++ {
			for _, kernel := range c.kernels {
				for _, a := range c.arms {
					for _, n := range c.policies {
						if f, _ := catalog.Schema1().Filter(a.filter); n > 0 && !f.Policies {
							continue
						}
						order++
						f := map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": a.name, "policies": strconv.Itoa(n), "datapath": a.fabric + "+" + a.filter,
							"fabric": a.fabric, "filter": a.filter, "clock": c.clock, "kernel": kernel, "family": "ipv4"}
						maps.Copy(f, a.options)
						if c.clock == runs.ClockVirtual {
							f["seed"] = strconv.Itoa(block)
						}
						v := a.cost(n) * boot * math.Exp(rng.NormFloat64()*c.spread)
						if kernel == "slow-lists" && strings.Contains(a.filter, "linear") {
							v *= 2
						}
						row := record.Row{Run: "cross", Cell: fmt.Sprintf("%s-%s-%d", kernel, a.name, n), Block: block, Trial: trial, Order: order, Status: record.StatusOK,
							Metric: "latency_mean", Unit: "s", Value: round(v), Factors: f}
						if c.stream {
							f["workload"], row.Metric, row.Unit, row.Value = "TCP_STREAM", "throughput", "bit/s", round(2.4e5/v)
						}
						if a.status != "" {
							row.Status, row.Reason = a.status, "invented"
						}
						lines, err := record.Encode(factors, []record.Row{row})
						if err != nil {
							t.Fatal(err)
						}
						data = append(data, lines...)
					}
				}
			}
		}
	}
	writeFile(t, filepath.Join(dir, runs.RowsFile), data)
	estimator := runs.EstimatorMedian
	if c.halves {
		estimator = runs.EstimatorFasterHalf
	}
	writeJSON(t, filepath.Join(dir, runs.PlanFile), map[string]any{"spec": map[string]any{"Name": "cross", "Description": "Invented numbers. Nothing was measured.",
		"Measure": map[string]any{"Estimator": estimator}}})
	return dir
}

// each is a fixed cost and one of each policy, in microseconds.
func each(fixed, policy float64) func(int) float64 {
	return func(n int) float64 { return (fixed + policy*float64(n)) * 1e-6 }
}

// structural is a cross in which structure makes 90 % of the way, path 10 % and
// mechanism nothing, in either order: lists cost 100 µs at N = 1000, hashes
// 100/q on the bridge, and those on bpf 100/Q, with ln q = 0.9 ln Q, Q = 5.
func structural() cross {
	const whole = 5.0
	hash, short := 100/math.Pow(whole, 0.9), 100/whole
	list := each(hash, (100-hash)/1000)
	study, stateless := map[string]string{"state": "as-study", "placement": "input"}, map[string]string{"state": "stateless", "placement": "input"}
	tc, redirect := map[string]string{"enforce": "all", "attach": "clsact"}, map[string]string{"enforce": "all", "attach": "clsact", "delivery": "redirect"}
	xdp := map[string]string{"attach": "native", "where": "edge"}
	return cross{kernels: []string{"one"}, clock: runs.ClockWall, blocks: 1, trials: 8, spread: 0.01, halves: true, policies: []int{0, 100, 1000}, arms: []crossArm{
		{"plain", "bridge", "none", nil, each(hash*0.99, 0), ""},
		{"routed", "routed", "none", nil, each(hash*0.95, 0), ""},
		{"bpf-pass", "bpf", "tc-pass", redirect, each(short*0.98, 0), ""},
		{"tc-pass", "bridge", "tc-pass", tc, each(hash*0.995, 0), ""},
		{"legacy", "bridge", "iptables-legacy", study, list, ""},
		{"legacy-established", "bridge", "iptables-legacy", map[string]string{"state": "established-first", "placement": "input"}, each(hash, 0), ""},
		{"legacy-stateless", "bridge", "iptables-legacy", stateless, each(hash*0.9, (100-hash)/1000), ""},
		{"nft-set", "bridge", "nft-set", study, each(hash, 0), ""},
		{"nft-set-stateless", "bridge", "nft-set", stateless, each(hash*0.9, 0), ""},
		{"ipset", "bridge", "ipset", study, each(hash, 0), ""},
		{"nft-linear", "bridge", "nft-linear", study, each(hash, 1.2*(100-hash)/1000), ""},
		{"tc-linear", "bridge", "tc-linear", tc, list, ""},
		{"tc-hash", "bridge", "tc-hash", tc, each(hash, 0), ""},
		{"xdp-hash", "bridge", "xdp-hash", xdp, each(hash*0.8, 0), ""},
		{"xdp-linear", "bridge", "xdp-linear", xdp, each(hash*0.8, (100-hash)/2000), ""},
		{"cilium-like", "bpf", "tc-hash", redirect, each(short, 0), ""},
		{"cilium-like-peer", "bpf", "tc-hash", map[string]string{"enforce": "all", "attach": "clsact", "delivery": "peer"}, each(short*0.9, 0), ""},
	}}
}

func (c cross) without(names ...string) cross {
	c.arms = slices.DeleteFunc(slices.Clone(c.arms), func(a crossArm) bool { return slices.Contains(names, a.name) })
	return c
}

func (c cross) changed(name string, change func(*crossArm)) cross {
	c.arms = slices.Clone(c.arms)
	for i := range c.arms {
		if c.arms[i].name == name {
			change(&c.arms[i])
		}
	}
	return c
}

func explain(t *testing.T, c cross) []Explanation {
	t.Helper()
	out, _ := makeReport(t, Options{Resamples: 400}, c.write(t))
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Explanations
}

func stepOf(t *testing.T, d Decomposition, kind string) Step {
	t.Helper()
	for _, s := range d.Steps {
		if s.Kind == kind {
			return s
		}
	}
	t.Fatalf("no step %s in %+v", kind, d)
	return Step{}
}

// holds says whether a value lies within twice an interval: one in twenty lies
// outside it, and these tests draw once. TestShareCoverage counts.
func holds(v *stat.Estimate, truth float64) bool {
	return truth >= v.Low-(v.Estimate-v.Low) && truth <= v.High+(v.High-v.Estimate)
}

// contrastOf finds a contrast by its arms' names.
func contrastOf(x Explanation, kind, arm, over string) *Contrast {
	for i, c := range x.Contrasts {
		if c.Kind == kind && c.Arm == arm && c.Over == over {
			return &x.Contrasts[i]
		}
	}
	return nil
}

// TestExplainGolden holds the section as a reader sees it.
func TestExplainGolden(t *testing.T) {
	dir := structural().write(t)
	out, res := makeReport(t, Options{}, dir)
	again, _ := makeReport(t, Options{}, dir)
	compareTrees(t, again, out)
	if *keep != "" {
		if _, err := Make([]string{dir}, filepath.Join(*keep, "explain"), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	text := read(t, out, "report.md")
	from, to := strings.Index(text, "## What explains it"), strings.Index(text, "## At a glance")
	if from < 0 || to < from {
		t.Fatalf("the section is not first:\n%s", text)
	}
	golden := filepath.Join("testdata", "explain.md")
	if *update {
		writeFile(t, golden, []byte(text[from:to]))
	}
	if want := read(t, golden); text[from:to] != want {
		t.Errorf("got:\n%s\nwant:\n%s\n(if this is meant: go test -update)", text[from:to], want)
	}
	if got := strings.Join(res.Answers[0].Lines(), "\n"); !strings.Contains(got, "structure explains 89 %") {
		t.Errorf("the answer is %s", got)
	}
	page := read(t, out, "report.html")
	if !strings.Contains(page, `id="s-explain"`) || strings.Index(page, `id="s-explain"`) > strings.Index(page, `id="glance"`) {
		t.Error("report.html does not begin with the section")
	}
	for _, name := range []string{"explain-localhost-tcp-rr", "each-policy-localhost-tcp-rr"} {
		svg, csv := read(t, out, "figures", name+".svg"), read(t, out, "figures", name+".csv")
		if !strings.Contains(page, "f-"+name) || !strings.Contains(text, name+".svg") || strings.Count(csv, "\n") < 8 {
			t.Errorf("figure %s is not shown, or %q", name, csv)
		}
		wellFormed(t, svg)
	}
}

// TestExplainKnownShares compares shares and gains with what the numbers were
// made of, for every way to make intervals.
func TestExplainKnownShares(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*cross)
		rough  bool
	}{
		{"faster half", func(*cross) {}, false},
		{"median", func(c *cross) { c.halves = false }, false},
		{"faster half of throughput", func(c *cross) { c.stream = true }, false},
		{"median of throughput", func(c *cross) { c.halves, c.stream = false, true }, false},
		{"few trials", func(c *cross) { c.halves, c.trials = false, 3 }, false},
		{"few trials, faster half", func(c *cross) { c.trials = 4 }, false},
		{"blocks", func(c *cross) { c.blocks, c.trials = 6, 3 }, true},
		{"virtual", func(c *cross) { c.blocks, c.trials, c.clock, c.halves = 4, 1, runs.ClockVirtual, false }, true},
		{"two seeds", func(c *cross) {
			c.blocks, c.trials, c.clock, c.halves, c.spread = 2, 1, runs.ClockVirtual, false, 0.0005
		}, true},
	} {
		c := structural()
		tt.change(&c)
		all := explain(t, c)
		if len(all) != 1 || len(all[0].Orders) != 3 || all[0].Policies != 1000 {
			t.Fatalf("%s: %+v", tt.name, all)
		}
		for _, d := range all[0].Orders {
			product := 1.0
			for kind, want := range map[string]float64{kindStructure: 0.9, kindPath: 0.1, kindMechanism: 0} {
				s := stepOf(t, d, kind)
				product *= s.Gain.Estimate
				if math.Abs(s.Share.Estimate-want) > 0.02 || !holds(s.Share, want) || s.Share.Confidence == 0 || s.Gain.Confidence == 0 {
					t.Errorf("%s, %s: %s has share %+v, want %g", tt.name, d.Order, kind, s.Share, want)
				}
				if s.Share.Rough != (tt.rough || c.halves && c.trials >= stat.MinFasterHalf) || s.Gain.Rough != tt.rough {
					t.Errorf("%s, %s: %s is rough %v and %v", tt.name, d.Order, kind, s.Share.Rough, s.Gain.Rough)
				}
				few := s.Gain.Confidence < 0.95
				if few && (s.Word != summary.Undecided || s.Decides == nil) || !few && (s.Word == summary.Same) != (kind == kindMechanism) {
					t.Errorf("%s, %s: %s is %q, %v", tt.name, d.Order, kind, s.Word, s.Decides)
				}
			}
			if math.Abs(product/d.Total.Estimate-1) > 1e-9 || math.Abs(d.Total.Estimate-5) > 0.15 {
				t.Errorf("%s, %s: total %g, product of steps %g, want 5", tt.name, d.Order, d.Total.Estimate, product)
			}
		}
		if strings.HasPrefix(tt.name, "few trials") {
			if !strings.Contains(all[0].Sentence, "the gain is undecided") || !strings.Contains(all[0].Sentence, "about 5 trials a cell would decide") {
				t.Errorf("%s: %s", tt.name, all[0].Sentence)
			}
			continue
		}
		if !strings.Contains(all[0].Sentence, "mechanism is not distinguishable from none") || !strings.Contains(all[0].Sentence, "Taken in another order, no share differs") {
			t.Errorf("%s: %s", tt.name, all[0].Sentence)
		}
	}
}

// TestNoDirectionBelowTheConfidence: of as few trials as there may be, no word of
// an explanation takes a side without the confidence for it, and what takes none
// says what it would take.
func TestNoDirectionBelowTheConfidence(t *testing.T) {
	for _, trials := range []int{1, 2, 4, 6} {
		c := structural()
		c.halves, c.trials = false, trials
		check := func(what, word string, r *stat.Estimate, n *stat.Need) {
			sure := r != nil && r.Confidence >= 0.95
			if side := word == summary.Faster || word == summary.Slower; side && !sure || !side && n == nil || side && n != nil {
				t.Errorf("%d trials, %s: %q of %+v, decided by %v", trials, what, word, r, n)
			}
		}
		for _, x := range explain(t, c) {
			if strings.Contains(x.Sentence, "seems") || trials < 5 && strings.Contains(x.Sentence, "explains ") && !strings.Contains(x.Sentence, "what explains it cannot be said") && !strings.Contains(x.Sentence, "too few to say what explains it") {
				t.Errorf("%d trials: %s", trials, x.Sentence)
			}
			for _, d := range x.Orders {
				check(d.Order, d.Word, d.Total, d.Decides)
				for _, s := range d.Steps {
					check(d.Order+", "+s.Kind, s.Word, s.Gain, s.Decides)
				}
			}
			for _, k := range x.Contrasts {
				check(k.What+" over "+k.OverWhat, k.Word, k.Gain, k.Decides)
			}
		}
	}
}

// In virtual time it is seeds that decide.
func TestSeedsDecide(t *testing.T) {
	c := structural()
	c.halves, c.clock, c.blocks, c.trials = false, runs.ClockVirtual, 1, 1
	for _, blocks := range []int{1, 2} {
		c.blocks = blocks
		undecided := 0
		for _, k := range explain(t, c)[0].Contrasts {
			if k.Decides == nil {
				continue
			}
			if undecided++; k.Decides.Of != stat.NeedSeeds || k.Decides.Bound != stat.NeedNone && k.Decides.N <= blocks {
				t.Errorf("%d seeds: %s is decided by %v", blocks, k.What, k.Decides)
			}
		}
		if undecided == 0 {
			t.Errorf("%d seeds decide everything", blocks)
		}
	}
}

func TestExplainContrasts(t *testing.T) {
	x := explain(t, structural())[0]
	hash := 100 / math.Pow(5, 0.9)
	for _, tt := range []struct {
		kind, arm, over string
		n               int
		want            float64
	}{
		{kindPath, "routed", "plain", 0, 0.99 / 0.95},
		{kindPath, "bpf-pass", "tc-pass", 0, hash * 0.995 / (20 * 0.98)},
		{kindPath, "bpf-pass", "plain", 0, hash * 0.99 / (20 * 0.98)},
		{kindPath, "cilium-like-peer", "tc-hash", 0, hash / 18},
		{kindStructure, "ipset", "legacy", 1000, 100 / hash},
		{kindStructure, "nft-set", "nft-linear", 1000, (hash + 1.2*(100-hash)) / hash},
		{kindStructure, "nft-set-stateless", "legacy-stateless", 1000, (0.9*hash + 100 - hash) / (0.9 * hash)},
		{kindStructure, "tc-hash", "tc-linear", 1000, 100 / hash},
		{kindStructure, "xdp-hash", "xdp-linear", 1000, (0.8*hash + (100-hash)/2) / (0.8 * hash)},
		{kindMechanism, "tc-hash", "nft-set", 1000, 1},
		{kindMechanism, "xdp-hash", "nft-set-stateless", 1000, 0.9 / 0.8},
		{kindMechanism, "xdp-hash", "tc-hash", 1000, 1 / 0.8},
		{kindState, "legacy-established", "legacy", 1000, 100 / hash},
		{kindState, "legacy-stateless", "legacy", 1000, 100 / (0.9*hash + 100 - hash)},
	} {
		c := contrastOf(x, tt.kind, tt.arm, tt.over)
		if c == nil {
			t.Errorf("no contrast %s of %s over %s", tt.kind, tt.arm, tt.over)
			continue
		}
		if c.Policies != tt.n || math.Abs(c.Gain.Estimate/tt.want-1) > 0.025 || !holds(c.Gain, tt.want) || c.Gain.Confidence == 0 {
			t.Errorf("%s of %s over %s: %+v at %d, want %g", tt.kind, tt.arm, tt.over, c.Gain, c.Policies, tt.want)
		}
		if (c.Note != "") != (tt.arm == "xdp-hash" && tt.over == "tc-hash" || tt.arm == "bpf-pass" && tt.over == "plain") {
			t.Errorf("%s of %s over %s: note %q", tt.kind, tt.arm, tt.over, c.Note)
		}
	}
	// What differs in state is not like for like, nor is what has an arm of its own.
	for _, pair := range [][2]string{{"tc-hash", "nft-set-stateless"}, {"nft-set", "legacy-stateless"}, {"xdp-hash", "nft-set"}, {"cilium-like-peer", "tc-hash"}} {
		for _, kind := range []string{kindStructure, kindMechanism} {
			if c := contrastOf(x, kind, pair[0], pair[1]); c != nil {
				t.Errorf("compared: %+v", c)
			}
		}
	}
	for _, s := range x.Slopes {
		want := map[string]float64{"legacy": 1e-6 * (100 - hash) / 1000, "tc-linear": 1e-6 * (100 - hash) / 1000, "xdp-linear": 1e-6 * (100 - hash) / 2000}[s.Arm]
		if strings.Contains(s.Arm, "-stateless") || s.Arm == "nft-linear" {
			continue
		}
		if s.Each.Confidence == 0 || s.Policies != 1000 || !holds(&s.Each, want) || (s.word() == "grows") != (want > 0) {
			t.Errorf("slope %+v, want %g", s, want)
		}
	}
}

func TestExplainMissing(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    cross
		want []string
	}{
		{"no list in tc", structural().without("tc-linear"), []string{"to tell mechanism and structure apart takes what is not in this run: bridge+tc-linear", "path explains 10 %"}},
		{"no middle", structural().without("tc-linear", "tc-hash", "nft-set", "ipset"),
			[]string{"What explains it takes arms that are not in this run: bridge+nft-set (as-study), bridge+tc-hash and bridge+tc-linear."}},
		{"ipset only", structural().without("nft-set"), []string{"Mechanism first: structure explains"}},
		{"failed", structural().changed("tc-hash", func(a *crossArm) { a.status = record.StatusFailed }),
			[]string{"bridge+tc-hash has no valid number", "structure and path cannot be said"}},
		{"void", structural().changed("legacy", func(a *crossArm) { a.status = record.StatusVoid }),
			[]string{"The study's contrast cannot be said: bridge+iptables-legacy (as-study) has no valid number"}},
		// An unlike option makes another arm of it.
		{"unlike", structural().changed("tc-linear", func(a *crossArm) { a.options = map[string]string{"attach": "tcx"} }),
			[]string{"what is not in this run: bridge+tc-linear"}},
		{"nothing to explain", structural().changed("cilium-like", func(a *crossArm) { a.cost = each(100, 0) }), []string{"There is nothing to explain"}},
		{"against", structural().changed("cilium-like", func(a *crossArm) { a.cost = each(30, 0) }), []string{"path works against it, −"}},
		{"order", structural().changed("nft-set", func(a *crossArm) { a.cost = each(60, 0) }), []string{"The order matters: the shares of mechanism and structure"}},
	} {
		all := explain(t, tt.c)
		if len(all) != 1 {
			t.Fatalf("%s: %d explanations", tt.name, len(all))
		}
		for _, want := range tt.want {
			if !strings.Contains(all[0].Sentence, want) {
				t.Errorf("%s: %q\nwant %q", tt.name, all[0].Sentence, want)
			}
		}
	}
}

// A run without one of the contrast's ends has nothing to say of it: no sentence, no
// table of dashes. What it has to say of other arms stays.
func TestExplainWithoutTheEnds(t *testing.T) {
	for name, c := range map[string]cross{
		"no end":        structural().without("cilium-like"),
		"neither end":   structural().without("cilium-like", "legacy"),
		"another state": structural().changed("legacy", func(a *crossArm) { a.options = map[string]string{"state": "stateless"} }),
	} {
		out, _ := makeReport(t, Options{Resamples: 100}, c.write(t))
		text := read(t, out, "report.md")
		if strings.Contains(text, "cannot be said") || strings.Contains(text, "study's contrast,") || strings.Contains(text, "| steps |") || strings.Contains(text, "not in this run") {
			t.Errorf("%s: the report says what it has no arms for:\n%s", name, text[:min(len(text), 4000)])
		}
		if !strings.Contains(text, "One thing at a time") || !strings.Contains(text, "| structure | bridge+tc-hash | bridge+tc-linear |") {
			t.Errorf("%s: the contrasts are gone", name)
		}
	}
	c := structural()
	c.arms = c.arms[:1]
	out, _ := makeReport(t, Options{Resamples: 100}, c.write(t))
	if strings.Contains(read(t, out, "report.md"), "What explains it") {
		t.Error("one arm has a section")
	}
}

// An option is no difference at its default, whether rows say it or not and
// whatever it is called.
func TestExplainOptionsThatCameLater(t *testing.T) {
	want := explain(t, structural())[0].Sentence
	later := structural()
	for _, name := range []string{"tc-hash", "cilium-like", "xdp-hash"} {
		later = later.changed(name, func(a *crossArm) {
			a.options = maps.Clone(a.options)
			a.options["prealloc"] = "off"
		})
	}
	if got := explain(t, later)[0].Sentence; got != want {
		t.Errorf("with prealloc = off: %q, want %q", got, want)
	}
	asked := structural().changed("cilium-like", func(a *crossArm) {
		a.options = maps.Clone(a.options)
		a.options["prealloc"] = "on"
	})
	if x := explain(t, asked)[0]; len(x.Orders) != 0 {
		t.Errorf("with prealloc = on it is the study's arm: %+v", x.Orders)
	}
}

// In virtual time the section says that gains are not in time.
func TestExplainVirtual(t *testing.T) {
	for _, clock := range []string{runs.ClockWall, runs.ClockVirtual} {
		c := structural()
		c.clock, c.blocks, c.trials = clock, 3, 1
		out, _ := makeReport(t, Options{Resamples: 100}, c.write(t))
		if said := strings.Contains(read(t, out, "report.md"), "gains are in instructions"); said != (clock == runs.ClockVirtual) {
			t.Errorf("%s clock: said %v", clock, said)
		}
	}
}

// One trial gives ratios, and nothing that could be concluded from them.
func TestExplainOneTrial(t *testing.T) {
	c := structural()
	c.trials = 1
	x := explain(t, c)[0]
	if !strings.Contains(x.Sentence, "of one trial, which is too few to say what explains it") || stepOf(t, x.Orders[0], kindPath).Gain.Confidence != 0 || x.Slopes[0].Each.Confidence != 0 {
		t.Errorf("%s\n%+v", x.Sentence, x.Orders[0])
	}
}

// Two kernels, and two kinds of policies, are explained apart.
func TestExplainContexts(t *testing.T) {
	c := structural()
	c.kernels = []string{"one", "slow-lists"}
	all := explain(t, c)
	if len(all) != 2 || all[0].Where != "kernel=one" || all[1].Where != "kernel=slow-lists" {
		t.Fatalf("%+v", all)
	}
	for i, list := range []float64{100, 200} {
		want := list / (100 / math.Pow(5, 0.9))
		if g := contrastOf(all[i], kindStructure, "tc-hash", "tc-linear").Gain; math.Abs(g.Estimate/want-1) > 0.02 {
			t.Errorf("%s: gain %+v, want %g", all[i].Where, g, want)
		}
	}
	c = structural()
	for i, a := range c.arms {
		if a.name == "tc-hash" || a.name == "tc-linear" {
			o := maps.Clone(a.options)
			o["policy"] = "l3"
			c.arms[i].options = o
		}
	}
	all = explain(t, c)
	if len(all) != 2 || all[1].Where != "policy=l3" || contrastOf(all[0], kindStructure, "tc-hash", "tc-linear") != nil || contrastOf(all[1], kindStructure, "tc-hash", "tc-linear") == nil {
		t.Errorf("%d explanations: %+v", len(all), all)
	}
}
