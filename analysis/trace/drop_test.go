package trace_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
)

// Where a refused packet ends is in trace.json and in drop.md, and nowhere if it was not traced.
func TestDropIsWrittenAndRead(t *testing.T) {
	dir := t.TempDir()
	x := tracetest.New("cell", tracetest.Iptables, tracetest.RR, 10)
	attempts, recorded := tracetest.Refused("cell", tracetest.Iptables, 10)
	d, err := trace.NewDrop(&attempts, recorded)
	if err != nil {
		t.Fatal(err)
	}
	x.Drop = d
	if err := trace.Write(dir, &x); err != nil {
		t.Fatal(err)
	}
	all, err := trace.Read(dir)
	if err != nil || len(all) != 1 || all[0].Drop == nil {
		t.Fatalf("%d traces, %v", len(all), err)
	}
	got := all[0].Drop
	if got.Where() != "netfilter INPUT, iptables rules" || got.ToDrop != d.ToDrop || got.FromWire != d.FromWire || got.Ended != d.Ended || len(got.Layers) != len(d.Layers) {
		t.Errorf("read %+v, wrote %+v", got, d)
	}
	if err := trace.WriteDrop(io.Discard, &all[0]); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("a path that was not kept is written: %v", err)
	}
	spoiled := *got
	spoiled.Layers = spoiled.Layers[1:]
	x.Drop = &spoiled
	if err := trace.Write(dir, &x); err == nil || !strings.Contains(err.Error(), "the layers of refused attempts") {
		t.Errorf("layers that do not add up are written: %v", err)
	}
	x.Drop = nil
	if err := trace.Write(dir, &x); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, trace.Dir, "cell", trace.DropFile)); err == nil {
		t.Error("a trace without refused packets has drop.md")
	}
}

// What a packet ends as is said in words.
func TestWhyAPacketEnds(t *testing.T) {
	for want, d := range map[string]trace.Drop{
		"TC_INGRESS":                {Recorded: 8, Reason: "TC_INGRESS"},
		"the kernel has no reasons": {Recorded: 8},
		"not recorded as dropped":   {},
	} {
		if got := d.Why(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
