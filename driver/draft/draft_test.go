package draft_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/draft"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/images"
)

func writer() draft.Writer {
	return draft.Writer{
		Catalog: plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), NICs: images.NICs()},
		// One guest at once: what fits does not depend on this computer.
		Estimate: func(p *plan.Plan) time.Duration { return campaign.Estimate(p, 1) },
	}
}

func request() draft.Request {
	return draft.Request{
		Name: "mine", Arms: []string{"iptables-legacy", "tc-hash"}, Provider: plan.ProviderLibvirt, Clock: plan.ClockVirtual, Kernels: []string{"6.12"},
		Policies: []int{0, 100, 1000}, Workloads: []string{"TCP_RR"}, Scenarios: []string{plan.Localhost}, Budget: 10 * time.Minute,
	}
}

// TestEveryBudget: with every budget the draft fits it, is what the loader reads, and never measures
// less than with a smaller one; a budget that is too small is refused, with one that is not.
func TestEveryBudget(t *testing.T) {
	for _, clock := range []string{plan.ClockVirtual, plan.ClockWall} {
		for _, workloads := range [][]string{{"TCP_RR"}, {"TCP_STREAM"}, {"TCP_STREAM", "TCP_RR", "TCP_CRR"}} {
			before, refused, sizes := 0, 0, map[int]bool{}
			for budget := 8 * time.Second; budget <= 8*time.Hour; budget *= 2 {
				r := request()
				r.Clock, r.Workloads, r.Budget = clock, workloads, budget
				d, err := writer().Write(r)
				if errors.Is(err, draft.ErrBudget) {
					refused++
					if before > 0 {
						t.Fatalf("%s: refused with %s, and not with less", clock, budget)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if d.Estimate > budget {
					t.Errorf("%s: %s does not fit %s", clock, d.Estimate, budget)
				}
				if n := len(d.Plan.Trials); n < before {
					t.Errorf("%s: %d trials with %s, and %d with less", clock, n, budget, before)
				}
				before = len(d.Plan.Trials)
				sizes[before] = true
				if len(d.Choices) == 0 || len(d.Plan.Cells) != 6*len(workloads) {
					t.Errorf("%d cells, choices %q", len(d.Plan.Cells), d.Choices)
				}
			}
			if clock == plan.ClockWall && refused == 0 || len(sizes) < 2 {
				t.Errorf("%s %v: %d budgets were refused, and there were %d sizes", clock, workloads, refused, len(sizes))
			}
		}
	}
}

// TestWhatWouldFit: every way out that a refusal names is one.
func TestWhatWouldFit(t *testing.T) {
	r := request()
	r.Clock, r.Budget, r.Scenarios, r.Workloads = plan.ClockWall, 6*time.Minute, []string{plan.Localhost, plan.MultiHost}, []string{"TCP_RR", "TCP_STREAM"}
	r.Policies = []int{0, 10, 50, 100, 300, 500, 700, 1000, 2000, 3000}
	_, err := writer().Write(r)
	if !errors.Is(err, draft.ErrBudget) {
		t.Fatalf("%v, want a refusal", err)
	}
	text := err.Error()
	_, budget, found := strings.Cut(text, "write a budget of ")
	budget, _, _ = strings.Cut(budget, ",")
	enough, perr := time.ParseDuration(budget)
	if !found || perr != nil {
		t.Fatalf("it names no budget: %s", text)
	}
	larger := r
	if larger.Budget = enough; larger.Budget <= r.Budget {
		t.Errorf("the budget that it names is %s", enough)
	}
	if _, err := writer().Write(larger); err != nil {
		t.Errorf("with the budget that it names: %v", err)
	}
	for _, want := range []string{"numbers of policies, 0, ", "3000", "or 1 of the 2 arms", "or one scenario"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q: %s", want, text)
		}
	}
	_, list, _ := strings.Cut(text, "numbers of policies, ")
	list, _, _ = strings.Cut(list, ", or")
	fewer := r
	fewer.Policies = nil
	for word := range strings.SplitSeq(list, ", ") {
		n := slices.IndexFunc(r.Policies, func(n int) bool { return strconv.Itoa(n) == word })
		if n < 0 {
			t.Fatalf("%q is no number of the request: %s", word, text)
		}
		fewer.Policies = append(fewer.Policies, r.Policies[n])
	}
	if _, err := writer().Write(fewer); err != nil {
		t.Errorf("with the policies that it names: %v", err)
	}
}

// TestArms: filters, filters on a fabric, datapaths, options; and what is wrong with them.
func TestArms(t *testing.T) {
	r := request()
	r.Arms = []string{"cilium-like", "bpf+tc-hash:delivery=peer:attach=tcx", "nft-set"}
	d, err := writer().Write(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"datapath = \"cilium-like\"", "fabric = \"bpf\"\nfilter = \"tc-hash\"\ndelivery = \"peer\"\nattach = \"tcx\"", "name = \"bpf-tc-hash-peer-tcx\"", "count = { TCP_RR = "} {
		if !strings.Contains(string(d.Text), want) {
			t.Errorf("the file does not have %q:\n%s", want, d.Text)
		}
	}
	for i, line := range strings.Split(string(d.Text), "\n") {
		if len(line) > 120 {
			t.Errorf("line %d is %d bytes long", i+1, len(line))
		}
	}
	for _, tt := range []struct{ arm, want string }{
		{"tc-hahs", `did you mean "tc-hash"?`},
		{"tc-hash:attach", "want KEY=LEVEL"},
		{"tc-hash:attach=native", `arm.attach: unknown level "native"`},
		{"tc-hash:atach=tcx", `arm.atach: unknown key (did you mean "attach"?)`},
		{"veth+tc-hash", "cannot work on fabric"},
		{"l7-tc", "judges requests of http"},
	} {
		r.Arms = []string{tt.arm}
		if _, err := writer().Write(r); !errors.Is(err, plan.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.arm, err, tt.want)
		}
	}
	r.Arms = []string{"tc-hash", "tc-hash"}
	if _, err := writer().Write(r); err == nil {
		t.Error("an arm may be there twice")
	}
	if _, err := writer().Write(draft.Request{}); err == nil {
		t.Error("a request may be empty")
	}
}

// TestOnlyCounted: workloads that have no duration get a number, on both clocks.
func TestOnlyCounted(t *testing.T) {
	for _, clock := range []string{plan.ClockVirtual, plan.ClockWall} {
		r := request()
		r.Clock, r.Workloads, r.Budget = clock, []string{"HTTP"}, 10*time.Hour
		d, err := writer().Write(r)
		if err != nil || !strings.Contains(string(d.Text), "count = { HTTP = ") || strings.Contains(string(d.Text), "duration") {
			t.Errorf("%s: %v\n%s", clock, err, d.Text)
		}
	}
}
