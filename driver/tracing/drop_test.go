package tracing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/plan"
	"hookbed/driver/watch"
)

// refusing is a fake whose guests have refused attempts behind their workloads, of which the kernel
// records that function freed the packets.
func refusing(t *testing.T, function string) *fake {
	t.Helper()
	f := newFake(newDirOf(t, plan.Choice{Refusals: 5}))
	f.marks = []watch.MarkID{watch.MarkBegin, watch.MarkEnd, watch.MarkBegin, watch.MarkEnd}
	f.refuse = func(plan.Cell) (*trace.Trace, error) {
		tr, _ := tracetest.Refused("", tracetest.Iptables, 2)
		return &tr, nil
	}
	f.write = func(block int) []byte {
		text := "init-1 [000] .Ns1. 1.0: kfree_skb: skbaddr=0 protocol=2048 location=x reason: NETFILTER_DROP\n => sk_skb_reason_drop\n => " + function + "\n => ip_local_deliver\n"
		line, err := json.Marshal(bundle.SealedReply{Setup: 1, Phase: string(bundle.Run), Reply: bundle.Reply{Raw: map[string]string{campaign.DropsFile: strings.Repeat(text, 8)}}})
		if err != nil {
			t.Fatal(err)
		}
		return append(line, '\n')
	}
	recordAll(t, f.dir)
	for _, tr := range f.dir.Plan().Trials {
		if err := f.dir.SaveBlock(tr.Block, f.write(tr.Block)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// The second part that a guest marks is the refused attempts: where their packets end is in the
// cell's trace and in drop.md, and is printed.
func TestRefusedAttempts(t *testing.T) {
	f := refusing(t, "nf_hook_slow")
	result, err := f.run(t)
	if err != nil || len(result.Refused) > 0 {
		t.Fatalf("refused %+v, %v", result.Refused, err)
	}
	all, err := trace.Read(f.dir.Path())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d traces, %v, want that of the cell with policies", len(all), err)
	}
	d := all[0].Drop
	if d == nil || d.Function != "nf_hook_slow" || d.Reason != "NETFILTER_DROP" || d.Recorded != 8 || d.Ended != uint64(d.Compared) || d.FromWire == 0 || d.FromWire >= d.ToDrop {
		t.Fatalf("drop %+v", d)
	}
	if _, err := os.Stat(filepath.Join(f.dir.Path(), trace.Dir, all[0].Cell, trace.DropFile)); err != nil {
		t.Error(err)
	}
	lines, err := Summarise(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	PrintDrops(&said, lines)
	for _, want := range []string{"a refused packet", fmt.Sprint(d.FromWire), "netfilter INPUT, iptables rules", "NETFILTER_DROP"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in\n%s", want, said.String())
		}
	}
}

// A cell whose refused packets are not accounted for has no trace.
func TestRefusedAttemptsThatAreNotExact(t *testing.T) {
	for want, spoil := range map[string]func(*fake){
		"8 ns less": func(f *fake) {
			f.refuse = func(plan.Cell) (*trace.Trace, error) {
				tr, _ := tracetest.Refused("", tracetest.Iptables, 2)
				tr.Window.ClockNS += 8
				return &tr, nil
			}
		},
		"1 marks where a measured part begins, want 2": func(f *fake) { f.marks = f.marks[:2] },
		"nf_hook_slow gave up 8 packets": func(f *fake) {
			f.refuse = func(plan.Cell) (*trace.Trace, error) {
				tr, _ := tracetest.Refused("", tracetest.CiliumLike, 2)
				return &tr, nil
			}
		},
	} {
		f := refusing(t, "nf_hook_slow")
		spoil(f)
		result, err := f.run(t)
		if err != nil || len(result.Refused) != 1 || !strings.Contains(result.Refused[0].Reason, want) {
			t.Errorf("refused %+v, %v, want %q", result.Refused, err, want)
		}
	}
	if _, err := recordedDrops([]byte("{}\n")); err == nil || !strings.Contains(err.Error(), "recorded no refused attempts") {
		t.Errorf("results without a recording: %v", err)
	}
}
