package trace

import (
	"os"
	"path/filepath"
	"testing"
)

// cellOf is a trace of a cell, by pairs of factor and level.
func cellOf(id string, factors ...string) *Trace {
	t := &Trace{Cell: id, Unit: UnitTransaction, Factors: map[string]string{factorScenario: "localhost", factorWorkload: "TCP_RR", factorKernel: "6.12"}}
	for i := 0; i < len(factors); i += 2 {
		t.Factors[factors[i]] = factors[i+1]
	}
	return t
}

// A difference is named by what its cells are called, and no two have one name.
func TestDiffFile(t *testing.T) {
	docker := cellOf("c1", factorArm, "docker", factorPolicies, "0")
	seen := map[string]int{}
	for i, c := range []struct {
		a, b *Trace
		want string
	}{
		{cellOf("c2", factorArm, "iptables", factorPolicies, "100"), docker, "localhost-TCP_RR-6.12/iptables-n100--docker-n0.svg"},
		{docker, cellOf("c2", factorArm, "iptables", factorPolicies, "100"), "localhost-TCP_RR-6.12/docker-n0--iptables-n100.svg"},
		{cellOf("c3", factorArm, "iptables", factorPolicies, "0"), docker, "localhost-TCP_RR-6.12/iptables-n0--docker-n0.svg"},
		{cellOf("c4", factorArm, "x", "streams", "1"), cellOf("c5", factorArm, "docker", "streams", "1"), "localhost-TCP_RR-1-6.12/x-n0--docker-n0.svg"},
		{cellOf("c6", factorArm, "x", factorKernel, "5.10"), docker, "localhost-TCP_RR/x-n0-5.10--docker-n0-6.12.svg"},
		{cellOf("c7", factorArm, "x", "nic", "virtio x2"), docker, "localhost-TCP_RR-6.12/x-n0-virtio-x2--docker-n0-no-nic.svg"},
		{cellOf("c8", factorArm, "a/../b"), docker, "localhost-TCP_RR-6.12/a-..-b-n0-c8--docker-n0.svg"},
		{cellOf("c9", factorArm, "a--b"), docker, "localhost-TCP_RR-6.12/a-b-n0-c9--docker-n0.svg"},
		{&Trace{Cell: "d1"}, &Trace{Cell: "d2"}, "cells/d1-n0--d2-n0.svg"},
	} {
		got := DiffFile(c.a, c.b, ".svg")
		if got != filepath.Join(Dir, diffDir, c.want) {
			t.Errorf("%s, want %s", got, c.want)
		}
		if before, ok := seen[got]; ok {
			t.Errorf("differences %d and %d are both in %s", before, i, got)
		}
		seen[got] = i
	}
}

// A run in which differences are named by the cells' IDs is read, and when they are made again the
// files have their new names only.
func TestDiffsNamedByID(t *testing.T) {
	dir, a, b := t.TempDir(), smallTrace(), other()
	if file, ok := FindDiff(dir, &a, &b, ".svg"); ok {
		t.Errorf("a run without differences has %s", file)
	}
	must(t, os.MkdirAll(filepath.Join(dir, Dir, diffDir), 0o755))
	old := filepath.Join(Dir, diffDir, "c0ffee-bead.svg")
	must(t, os.WriteFile(filepath.Join(dir, old), nil, 0o644))
	if file, ok := FindDiff(dir, &a, &b, ".svg"); file != old || !ok {
		t.Errorf("found %q, want %s", file, old)
	}
	if file, ok := FindDiff(dir, &b, &a, ".svg"); ok {
		t.Errorf("the difference the other way round is said to be %s", file)
	}
	must(t, WriteDiff(dir, &a, &b))
	if file, ok := FindDiff(dir, &a, &b, ".svg"); file != DiffFile(&a, &b, ".svg") || !ok {
		t.Errorf("found %q, want %s", file, DiffFile(&a, &b, ".svg"))
	}
	if left := tree(t, dir); len(left) != 2 {
		t.Errorf("files %v, want those of the new names", left)
	}
}
