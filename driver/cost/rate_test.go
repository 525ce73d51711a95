package cost

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// bench executes rates without a kernel: everything sent is dropped or arrives,
// as what is sent says.
type bench struct {
	fake
	begun, ended int
	arrive       func(bundle.Generate) float64
	dropped      func(bundle.Generate) float64
	facts        map[string]string
}

const sentFrames = 1000

func (b *bench) Begin(context.Context, datapath.Setup) error { b.begun++; return nil }
func (b *bench) End(context.Context, datapath.Setup) error   { b.ended++; return nil }
func (b *bench) Facts(string) map[string]string              { return b.facts }

func (b *bench) Exec(ctx context.Context, bun *bundle.Bundle, phases ...bundle.Phase) (lab.Execution, error) {
	ex, err := b.fake.Exec(ctx, bun, phases...)
	ex.Raw = map[string]string{}
	arrived, dropped := "0", 0.0
	for i, o := range ex.Steps {
		switch do := o.Do.(type) {
		case bundle.Generate:
			o.Values["sent"], o.Values["seconds"], o.Values["thread_seconds"], o.Values["softirqd_seconds"] = sentFrames, 0.5, 0.2, 0.05
			arrived, dropped = number(b.arrive(do), 0), b.dropped(do)
		case bundle.Read:
			o.Values["packets"], o.Values["dropped"] = sentFrames*float64(i), dropped
		case bundle.Snapshot:
			ex.Raw[do.Out] = `{"tcp": {"InCsumErrors": ` + arrived + `}}`
		}
	}
	return ex, err
}

func accepted(g bundle.Generate) float64 {
	if g.Flow != "" {
		return sentFrames
	}
	return 0
}

func denied(g bundle.Generate) float64 { return sentFrames - accepted(g) }

func arms(t *testing.T, policies ...int) *plan.Plan {
	t.Helper()
	p := &plan.Plan{}
	for _, filter := range []string{"none", "iptables-legacy", "xdp-hash"} {
		for _, n := range policies {
			if filter == "none" && n > 0 {
				continue
			}
			c, err := cellOf(fabricBase, filter, n)
			if err != nil {
				t.Fatal(err)
			}
			c.Factors[plan.FactorArm] = filter
			p.Cells = append(p.Cells, c, c) // once for each of two workloads
		}
	}
	return p
}

func newBench() *bench {
	return &bench{arrive: accepted, dropped: denied, facts: map[string]string{"tool.iptables-legacy": "1.8"}}
}

func TestRates(t *testing.T) {
	b := newBench()
	rates, err := Rates(t.Context(), RateConfig{Lab: b, Plan: arms(t, 0, 3), Rounds: 2, Seconds: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rates {
		got = append(got, r.title()+" "+r.Sent)
		if r.Status != record.StatusOK || len(r.Samples) != 2 {
			t.Errorf("%s %s: %s (%s), %d samples, want 2", r.title(), r.Sent, r.Status, r.Reason, len(r.Samples))
			continue
		}
		s := r.Samples[0]
		if s.PerSecond() != 2000 || s.PerCore() != 4000 || s.Share() != 0.5 || r.loss() != 0 {
			t.Errorf("%s: %v packets/s, %v of a core, share %v, loss %v", r.title(), s.PerSecond(), s.PerCore(), s.Share(), r.loss())
		}
	}
	want := "localhost none N=0 accept, localhost iptables-legacy N=0 accept, localhost iptables-legacy N=3 drop, localhost iptables-legacy N=3 accept, " +
		"localhost xdp-hash N=0 accept, localhost xdp-hash N=3 drop, localhost xdp-hash N=3 accept"
	if strings.Join(got, ", ") != want {
		t.Errorf("measured %s, want %s", strings.Join(got, ", "), want)
	}
	if b.begun != 2*5 || b.ended != b.begun {
		t.Errorf("%d setups begun and %d ended, want 10", b.begun, b.ended)
	}
	var csv, md bytes.Buffer
	if err := writeRatesCSV(&csv, rates); err != nil {
		t.Fatal(err)
	}
	RateTable(rates, 2, Machine{"a processor", "6.18", "Mitigation: Retpolines"}).Markdown(&md)
	checkGolden(t, "rates.csv", csv.Bytes())
	checkGolden(t, "rates.md", md.Bytes())
	if svg := string(drawRates(rates)); !strings.Contains(svg, "iptables-legacy: 0.004 at N = 3") {
		t.Error("the figure lacks an arm")
	}
}

// TestRatesHoldCountersAgainstEachOther: a rate of which they do not agree is
// none.
func TestRatesHoldCountersAgainstEachOther(t *testing.T) {
	for _, tc := range []struct {
		name, sent, reason string
		spoil              func(*bench)
	}{
		{"denied arrive", Drop, "that must be denied arrived", func(b *bench) { b.arrive = func(bundle.Generate) float64 { return 1 } }},
		{"nothing arrives", Accept, "1000 frames were sent, 0 counted", func(b *bench) { b.arrive = func(bundle.Generate) float64 { return 0 } }},
		{"more than were sent", Drop, "1000 frames were sent, 1100 counted", func(b *bench) { b.dropped = func(bundle.Generate) float64 { return sentFrames + 100 } }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench()
			tc.spoil(b)
			rates, err := Rates(t.Context(), RateConfig{Lab: b, Plan: arms(t, 3), Rounds: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rates {
				if r.Sent == tc.sent && (r.Status != record.StatusFailed || !strings.Contains(r.Reason, tc.reason) || len(r.Samples) > 0) {
					t.Errorf("%s %s: %s (%s)", r.title(), r.Sent, r.Status, r.Reason)
				}
			}
		})
	}
}

// TestStrays: what a filter drops in addition to the frames is not counted as one.
func TestStrays(t *testing.T) {
	b := newBench()
	b.dropped = func(bundle.Generate) float64 { return sentFrames + 2 }
	rates, err := Rates(t.Context(), RateConfig{Lab: b, Plan: arms(t, 3), Rounds: 1})
	if err != nil || rates[0].Status != record.StatusOK || rates[0].Samples[0].Counted != sentFrames {
		t.Errorf("%+v, %v; want %d packets", rates[0], err, sentFrames)
	}
}

func TestRatesBlame(t *testing.T) {
	b := newBench()
	b.facts = nil
	b.fail = onKind("attach-bpf", fault(bundle.FaultUnsupported, "no native XDP"))
	rates, err := Rates(t.Context(), RateConfig{Lab: b, Plan: arms(t, 3), Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rates {
		if r.Status != record.StatusUnsupported || r.Reason == "" {
			t.Errorf("%s: %s (%s), want unsupported: no tool, no native XDP", r.title(), r.Status, r.Reason)
		}
	}
	b.fail = onKind("probes", fault(bundle.FaultRig, "gone"))
	if _, err := Rates(t.Context(), RateConfig{Lab: b, Plan: arms(t, 0), Rounds: 1}); err == nil || b.ended != b.begun {
		t.Errorf("error %v, %d begun and %d ended; want the rig's fault and everything ended", err, b.begun, b.ended)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.fail = func(bundle.Step) error { cancel(); return errors.New("cut off") }
	if _, err := Rates(ctx, RateConfig{Lab: b, Plan: arms(t, 0), Rounds: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}
