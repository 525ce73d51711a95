package plan

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func traced(t *testing.T, text string, c Choice) *Plan {
	t.Helper()
	p, err := Trace(expandText(t, text), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A plan of traces has the cells of its experiment under their IDs, each once and in a boot of its
// own; it survives plan.json, and the experiment's own plan is as it was.
func TestTraceHasABootForEachCell(t *testing.T) {
	whole := expandText(t, virtual)
	before, err := whole.Encode()
	if err != nil {
		t.Fatal(err)
	}
	p := traced(t, virtual, Choice{})
	if len(p.Cells) != len(whole.Cells) || len(p.Blocks) != len(p.Cells) || len(p.Trials) != len(p.Cells) || p.Spec.Measure.Blocks != len(p.Cells) {
		t.Fatalf("%d cells, %d blocks, %d trials of %d cells", len(p.Cells), len(p.Blocks), len(p.Trials), len(whole.Cells))
	}
	for i, tr := range p.Trials {
		c := whole.Cells[i]
		if want := (Trial{Order: i + 1, Block: i + 1, Trial: 1, Cell: c.ID}); tr != want {
			t.Errorf("trial %+v, want %+v", tr, want)
		}
		if want := (Block{Number: i + 1, Seed: 1, Scenario: c.Get(FactorScenario), Cell: c.ID}); p.Blocks[i] != want {
			t.Errorf("block %+v, want %+v", p.Blocks[i], want)
		}
	}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, data) {
		t.Errorf("encoded again it differs: %v\n%s", err, twice)
	}
	if after, err := whole.Encode(); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the experiment's plan has changed: %v", err)
	}
	if bytes.Contains(before, []byte("traced")) {
		t.Error("an ordinary plan says whether it is traced")
	}
	var shown bytes.Buffer
	if Describe(&shown, p); !strings.Contains(shown.String(), "(a boot for each cell)") {
		t.Errorf("described as\n%s", shown.String())
	}
}

func TestTraceOfComparedKernelsBootsTheCellsOwn(t *testing.T) {
	p := traced(t, strings.Replace(virtual, "[matrix]\n", "[matrix]\nkernels = [\"6.1\", \"6.12\"]\n", 1), Choice{Only: "policies=10,scenario=localhost,workload=TCP_RR"})
	if len(p.Blocks) != 2 {
		t.Fatalf("blocks %+v", p.Blocks)
	}
	for _, b := range p.Blocks {
		c, _ := p.CellByID(b.Cell)
		if got := p.LabOf(b.Number).Kernel; got != c.Get(FactorKernel) || got != b.Kernel {
			t.Errorf("block %+v of %s boots %s", b, c.Title(), got)
		}
	}
}

func TestTraceOfAChoice(t *testing.T) {
	p := traced(t, virtual, Choice{Arms: []string{"a"}, Only: "scenario=localhost,policies=10"})
	var got []string
	for _, c := range p.Cells {
		got = append(got, c.Title())
	}
	if want := []string{"localhost a N=10 TCP_RR", "localhost a N=10 TCP_STREAM"}; !slices.Equal(got, want) {
		t.Errorf("cells %q, want %q", got, want)
	}
	if p := traced(t, virtual, Choice{Arms: []string{"a"}}); len(p.Spec.Arms) != 2 || p.Spec.Traced.Against != "b" {
		t.Errorf("arms %+v, compared with %q, want a and what it is compared with", p.Spec.Arms, p.Spec.Traced.Against)
	}
	if p := traced(t, virtual, Choice{Arms: []string{"b"}, Against: "a"}); p.Spec.Traced.Against != "a" || len(p.Spec.Arms) != 2 {
		t.Errorf("arms %+v, compared with %q", p.Spec.Arms, p.Spec.Traced.Against)
	}
	if w := traced(t, virtual, Choice{Window: 7, Against: "a"}).Spec.Traced; *w != (Traced{Against: "a", Window: 7}) {
		t.Errorf("traced %+v", w)
	}
	if len(p.Spec.Arms) != 1 || p.Spec.Arms[0].Name != "a" {
		t.Errorf("arms %+v", p.Spec.Arms)
	}
	for _, tt := range []struct {
		text string
		c    Choice
		want string
	}{
		{minimal, Choice{}, "virtual time only"},
		{virtual, Choice{Arms: []string{"a", "bb"}}, `no arm "bb", want one of a, b (did you mean "b"?)`},
		{virtual, Choice{Against: "bb"}, `no arm "bb"`},
		{virtual, Choice{Against: "b", Only: "policies=10"}, "no cell of b is chosen"},
		{virtual, Choice{Only: "policies=11"}, `no cell has policies "11"`},
		{virtual, Choice{Arms: []string{"b"}, Only: "policies=10"}, `"policies=10" selects no cell of b`},
	} {
		if _, err := Trace(expandText(t, tt.text), tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
}

// Plans of traces that do not hang together are refused, as others are.
func TestDecodeRefusesTracesThatDoNotHangTogether(t *testing.T) {
	for what, spoil := range map[string]func(*Plan){
		"wall clock":     func(p *Plan) { p.Spec.Lab.Clock = ClockWall },
		"a block less":   func(p *Plan) { p.Blocks = p.Blocks[1:] },
		"another cell":   func(p *Plan) { p.Blocks[0].Cell = p.Blocks[1].Cell },
		"another block":  func(p *Plan) { p.Trials[0].Block = 2 },
		"not traced":     func(p *Plan) { p.Spec.Traced = nil },
		"too few blocks": func(p *Plan) { p.Spec.Measure.Blocks-- },
	} {
		p := traced(t, virtual, Choice{})
		spoil(p)
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(data); err == nil {
			t.Errorf("%s: decoded", what)
		}
	}
}

// Docker's bridge, which has no policies, is what others are compared with, at any number of them.
func TestReferenceAndCounterparts(t *testing.T) {
	p := traced(t, virtual, Choice{})
	if got := p.Spec.Traced.Against; got != "b" {
		t.Errorf("the reference is %s, want b", got)
	}
	if got := traced(t, virtual, Choice{Only: "arm=a"}).Spec.Traced.Against; got != "a" {
		t.Errorf("without an arm that has no policies the reference is %s, want a", got)
	}
	compared := map[string]string{}
	for _, c := range p.Cells {
		if o, ok := p.Counterpart(c, "b"); ok {
			compared[c.Title()] = o.Title()
		}
	}
	for title, want := range map[string]string{
		"localhost a N=0 TCP_RR":       "localhost b N=0 TCP_RR",
		"localhost a N=10 TCP_RR":      "localhost b N=0 TCP_RR",
		"multi-host a N=10 TCP_STREAM": "multi-host b N=0 TCP_STREAM",
		"localhost b N=0 TCP_RR":       "localhost b N=0 TCP_RR",
	} {
		if compared[title] != want {
			t.Errorf("%s is compared with %q, want %q", title, compared[title], want)
		}
	}
	c := p.Cells[slices.IndexFunc(p.Cells, func(c Cell) bool { return c.Title() == "localhost a N=10 TCP_RR" })]
	if o, ok := p.Counterpart(c, "a"); !ok || o.ID != c.ID {
		t.Errorf("the counterpart of %s of its own arm is %s", c.Title(), o.Title())
	}
	if _, ok := p.Counterpart(c, "c"); ok {
		t.Error("an arm that there is not has a counterpart")
	}
}

// Refusals are traced where something is refused, once for all workloads of a setup, at 100 policies
// where there are so many.
func TestTraceOfRefusals(t *testing.T) {
	many := strings.Replace(virtual, "policies = [0, 10]", "policies = [0, 10, 100]", 1)
	for _, tt := range []struct {
		text string
		c    Choice
		want []string
	}{
		{many, Choice{}, []string{"localhost a N=100 TCP_RR", "multi-host a N=100 TCP_RR"}},
		{virtual, Choice{}, []string{"localhost a N=10 TCP_RR", "multi-host a N=10 TCP_RR"}},
		{many, Choice{Only: "policies=10|100,scenario=localhost,workload=TCP_STREAM"}, []string{"localhost a N=10 TCP_STREAM", "localhost a N=100 TCP_STREAM"}},
	} {
		tt.c.Refusals = 7
		p := traced(t, tt.text, tt.c)
		var got []string
		for _, c := range p.Cells {
			got = append(got, c.Title())
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) || p.Spec.Traced.Refusals != 7 || len(p.Blocks) != len(got) {
			t.Errorf("%+v: cells %q, traced %+v, want %q", tt.c, got, p.Spec.Traced, tt.want)
		}
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Decode(data); err != nil || again.Spec.Traced.Refusals != 7 {
			t.Errorf("decoded: %v", err)
		}
	}
	for _, c := range []Choice{{Refusals: 7, Arms: []string{"b"}}, {Refusals: 7, Only: "policies=0"}} {
		if _, err := Trace(expandText(t, virtual), c); err == nil || !strings.Contains(err.Error(), "no chosen cell refuses anything") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestCellsThatRefuseNothingAreNamed(t *testing.T) {
	p := expandText(t, virtual)
	got, err := p.Unrefusing(Choice{Refusals: 7, Only: "scenario=localhost,workload=TCP_RR"})
	if err != nil || len(got) != 2 || got[0].Int(FactorPolicies)+got[1].Int(FactorPolicies) != 0 {
		t.Errorf("left out %+v, %v, want both arms without policies", got, err)
	}
	if got, err := p.Unrefusing(Choice{}); err != nil || got != nil {
		t.Errorf("without refusals %+v is left out, %v", got, err)
	}
}
