package explain

import (
	"maps"
	"math"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

func explainRun(t *testing.T, c runstest.Cross) []Explanation {
	t.Helper()
	all, err := runs.Load(c.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	e, err := summary.New(all, summary.Options{Resamples: 400})
	if err != nil {
		t.Fatal(err)
	}
	x, err := New(e)
	if err != nil {
		t.Fatal(err)
	}
	return x.Explanations()
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

// holds reports whether a value lies within twice an interval: one in twenty lies
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

// TestExplainKnownShares compares shares and gains with what the numbers were
// made of, for every way to make intervals.
func TestExplainKnownShares(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*runstest.Cross)
		rough  bool
	}{
		{"faster half", func(*runstest.Cross) {}, false},
		{"median", func(c *runstest.Cross) { c.Halves = false }, false},
		{"faster half of throughput", func(c *runstest.Cross) { c.Stream = true }, false},
		{"median of throughput", func(c *runstest.Cross) { c.Halves, c.Stream = false, true }, false},
		{"few trials", func(c *runstest.Cross) { c.Halves, c.Trials = false, 3 }, false},
		{"few trials, faster half", func(c *runstest.Cross) { c.Trials = 4 }, false},
		{"blocks", func(c *runstest.Cross) { c.Blocks, c.Trials = 6, 3 }, true},
		{"virtual", func(c *runstest.Cross) { c.Blocks, c.Trials, c.Clock, c.Halves = 4, 1, runs.ClockVirtual, false }, true},
		{"two seeds", func(c *runstest.Cross) {
			c.Blocks, c.Trials, c.Clock, c.Halves, c.Spread = 2, 1, runs.ClockVirtual, false, 0.0005
		}, true},
	} {
		c := runstest.Structural()
		tt.change(&c)
		all := explainRun(t, c)
		if len(all) != 1 || len(all[0].Orders) != 3 || all[0].Policies != 1000 {
			t.Fatalf("%s: %+v", tt.name, all)
		}
		for _, d := range all[0].Orders {
			product := 1.0
			for kind, want := range map[string]float64{Structure: 0.9, Path: 0.1, Mechanism: 0} {
				s := stepOf(t, d, kind)
				product *= s.Gain.Estimate
				if math.Abs(s.Share.Estimate-want) > 0.02 || !holds(s.Share, want) || s.Share.Confidence == 0 || s.Gain.Confidence == 0 {
					t.Errorf("%s, %s: %s has share %+v, want %g", tt.name, d.Order, kind, s.Share, want)
				}
				if s.Share.Rough != (tt.rough || c.Halves && c.Trials >= stat.MinFasterHalf) || s.Gain.Rough != tt.rough {
					t.Errorf("%s, %s: %s is rough %v and %v", tt.name, d.Order, kind, s.Share.Rough, s.Gain.Rough)
				}
				few := s.Gain.Confidence < 0.95
				if few && (s.Word != summary.Undecided || s.Decides == nil) || !few && (s.Word == summary.Same) != (kind == Mechanism) {
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
		c := runstest.Structural()
		c.Halves, c.Trials = false, trials
		check := func(what, word string, r *stat.Estimate, n *stat.Need) {
			sure := r != nil && r.Confidence >= 0.95
			if side := word == summary.Faster || word == summary.Slower; side && !sure || !side && n == nil || side && n != nil {
				t.Errorf("%d trials, %s: %q of %+v, decided by %v", trials, what, word, r, n)
			}
		}
		for _, x := range explainRun(t, c) {
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
	c := runstest.Structural()
	c.Halves, c.Clock, c.Blocks, c.Trials = false, runs.ClockVirtual, 1, 1
	for _, blocks := range []int{1, 2} {
		c.Blocks = blocks
		undecided := 0
		for _, k := range explainRun(t, c)[0].Contrasts {
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
	x := explainRun(t, runstest.Structural())[0]
	hash := 100 / math.Pow(5, 0.9)
	for _, tt := range []struct {
		kind, arm, over string
		n               int
		want            float64
	}{
		{Path, "routed", "plain", 0, 0.99 / 0.95},
		{Path, "bpf-pass", "tc-pass", 0, hash * 0.995 / (20 * 0.98)},
		{Path, "bpf-pass", "plain", 0, hash * 0.99 / (20 * 0.98)},
		{Path, "cilium-like-peer", "tc-hash", 0, hash / 18},
		{Structure, "ipset", "legacy", 1000, 100 / hash},
		{Structure, "nft-set", "nft-linear", 1000, (hash + 1.2*(100-hash)) / hash},
		{Structure, "nft-set-stateless", "legacy-stateless", 1000, (0.9*hash + 100 - hash) / (0.9 * hash)},
		{Structure, "tc-hash", "tc-linear", 1000, 100 / hash},
		{Structure, "xdp-hash", "xdp-linear", 1000, (0.8*hash + (100-hash)/2) / (0.8 * hash)},
		{Mechanism, "tc-hash", "nft-set", 1000, 1},
		{Mechanism, "xdp-hash", "nft-set-stateless", 1000, 0.9 / 0.8},
		{Mechanism, "xdp-hash", "tc-hash", 1000, 1 / 0.8},
		{State, "legacy-established", "legacy", 1000, 100 / hash},
		{State, "legacy-stateless", "legacy", 1000, 100 / (0.9*hash + 100 - hash)},
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
	// What differs in state is not comparable, nor is what has an arm of its own.
	for _, pair := range [][2]string{{"tc-hash", "nft-set-stateless"}, {"nft-set", "legacy-stateless"}, {"xdp-hash", "nft-set"}, {"cilium-like-peer", "tc-hash"}} {
		for _, kind := range []string{Structure, Mechanism} {
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
		c    runstest.Cross
		want []string
	}{
		{"no list in tc", runstest.Structural().Without("tc-linear"), []string{"to tell mechanism and structure apart takes what is not in this run: bridge+tc-linear", "path explains 10 %"}},
		{"no middle", runstest.Structural().Without("tc-linear", "tc-hash", "nft-set", "ipset"),
			[]string{"What explains it takes arms that are not in this run: bridge+nft-set (as-study), bridge+tc-hash and bridge+tc-linear."}},
		{"ipset only", runstest.Structural().Without("nft-set"), []string{"Mechanism first: structure explains"}},
		{"failed", runstest.Structural().Changed("tc-hash", func(a *runstest.CrossArm) { a.Status = record.StatusFailed }),
			[]string{"bridge+tc-hash has no valid number", "structure and path cannot be said"}},
		{"void", runstest.Structural().Changed("legacy", func(a *runstest.CrossArm) { a.Status = record.StatusVoid }),
			[]string{"The study's contrast cannot be said: bridge+iptables-legacy (as-study) has no valid number"}},
		// An unlike option makes another arm of it.
		{"unlike", runstest.Structural().Changed("tc-linear", func(a *runstest.CrossArm) { a.Options = map[string]string{"attach": "tcx"} }),
			[]string{"what is not in this run: bridge+tc-linear"}},
		{"nothing to explain", runstest.Structural().Changed("cilium-like", func(a *runstest.CrossArm) { a.Cost = runstest.Each(100, 0) }), []string{"There is nothing to explain"}},
		{"against", runstest.Structural().Changed("cilium-like", func(a *runstest.CrossArm) { a.Cost = runstest.Each(30, 0) }), []string{"path works against it, −"}},
		{"order", runstest.Structural().Changed("nft-set", func(a *runstest.CrossArm) { a.Cost = runstest.Each(60, 0) }), []string{"The order matters: the shares of mechanism and structure"}},
	} {
		all := explainRun(t, tt.c)
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

// An option is no difference at its default, whether rows say it or not and
// whatever it is called.
func TestExplainOptionsThatCameLater(t *testing.T) {
	want := explainRun(t, runstest.Structural())[0].Sentence
	later := runstest.Structural()
	for _, name := range []string{"tc-hash", "cilium-like", "xdp-hash"} {
		later = later.Changed(name, func(a *runstest.CrossArm) {
			a.Options = maps.Clone(a.Options)
			a.Options["prealloc"] = "off"
		})
	}
	if got := explainRun(t, later)[0].Sentence; got != want {
		t.Errorf("with prealloc = off: %q, want %q", got, want)
	}
	asked := runstest.Structural().Changed("cilium-like", func(a *runstest.CrossArm) {
		a.Options = maps.Clone(a.Options)
		a.Options["prealloc"] = "on"
	})
	if x := explainRun(t, asked)[0]; len(x.Orders) != 0 {
		t.Errorf("with prealloc = on it is the study's arm: %+v", x.Orders)
	}
}

// One trial gives ratios, and nothing that could be concluded from them.
func TestExplainOneTrial(t *testing.T) {
	c := runstest.Structural()
	c.Trials = 1
	x := explainRun(t, c)[0]
	if !strings.Contains(x.Sentence, "of one trial, which is too few to say what explains it") || stepOf(t, x.Orders[0], Path).Gain.Confidence != 0 || x.Slopes[0].Each.Confidence != 0 {
		t.Errorf("%s\n%+v", x.Sentence, x.Orders[0])
	}
}

// Two kernels, and two kinds of policies, are explained apart.
func TestExplainContexts(t *testing.T) {
	c := runstest.Structural()
	c.Kernels = []string{"one", "slow-lists"}
	all := explainRun(t, c)
	if len(all) != 2 || all[0].Where != "kernel=one" || all[1].Where != "kernel=slow-lists" {
		t.Fatalf("%+v", all)
	}
	for i, list := range []float64{100, 200} {
		want := list / (100 / math.Pow(5, 0.9))
		if g := contrastOf(all[i], Structure, "tc-hash", "tc-linear").Gain; math.Abs(g.Estimate/want-1) > 0.02 {
			t.Errorf("%s: gain %+v, want %g", all[i].Where, g, want)
		}
	}
	c = runstest.Structural()
	for i, a := range c.Arms {
		if a.Name == "tc-hash" || a.Name == "tc-linear" {
			o := maps.Clone(a.Options)
			o["policy"] = "l3"
			c.Arms[i].Options = o
		}
	}
	all = explainRun(t, c)
	if len(all) != 2 || all[1].Where != "policy=l3" || contrastOf(all[0], Structure, "tc-hash", "tc-linear") != nil || contrastOf(all[1], Structure, "tc-hash", "tc-linear") == nil {
		t.Errorf("%d explanations: %+v", len(all), all)
	}
}
