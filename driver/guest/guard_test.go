package main

import (
	"encoding/json"
	"fmt"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/step"
	"hookbed/driver/guest/sysfs"
)

// TestGuardReadsTheMachine: also a helper in namespaces of its own, where the
// files are not, sees the machine's state as it is now.
func TestGuardReadsTheMachine(t *testing.T) {
	want := map[string]string{}
	sysfs.SysctlFacts(want, []string{"net.core.bpf_jit_enable", "net.core.bpf_jit_harden"})
	if want["bpf_jit_enable"] == "" {
		t.Fatal("these tests do not run in the machine's first network namespace")
	}
	out, code := runBundleProcess(t, t.TempDir(), bundle.Bundle{Schema: bundle.Schema, Steps: []bundle.Step{{Node: "n", Phase: bundle.Collect, Do: bundle.Guard{JIT: true}}}})
	var report step.BundleReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ok := want["bpf_jit_enable"] == "1" && want["bpf_jit_harden"] == "0"
	if ok != (code == 0) || len(report.Results) != 1 {
		t.Fatalf("exit code %d, report %+v on a machine with %v", code, report, want)
	}
	for fact, value := range map[string]string{"bpf_jit_enable": "jit_enable", "bpf_jit_harden": "jit_harden"} {
		if got := fmt.Sprint(report.Results[0].Values[value]); got != want[fact] {
			t.Errorf("%s is %s, want %s", value, got, want[fact])
		}
	}
}
