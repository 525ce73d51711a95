package plan

import (
	"bytes"
	"testing"
)

// fuzzedPlan is a plan as plan.json has it.
func fuzzedPlan(f *testing.F) (*Plan, []byte) {
	f.Helper()
	s, err := Parse("f.toml", []byte(minimal), testCatalog())
	if err != nil {
		f.Fatal(err)
	}
	p, err := Expand(s, testCatalog())
	if err != nil {
		f.Fatal(err)
	}
	data, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	return p, data
}

// FuzzDecode: a plan that is read can be written, and is then read as the same.
func FuzzDecode(f *testing.F) {
	_, data := fuzzedPlan(f)
	f.Add(data)
	for _, edit := range [][2]string{{`"order": 1`, `"order": 2`}, {`"schema": 2`, `"schema": 1`}, {`"trials": [`, `"trials": [], "x": [`}, {`"cells": [`, `"cells": [null,`}, {`"spec": {`, `"spec": null, "y": {`}} {
		f.Add(bytes.Replace(data, []byte(edit[0]), []byte(edit[1]), 1))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(data)
		if err != nil {
			return
		}
		text, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if other, err := again.Encode(); err != nil || !bytes.Equal(text, other) {
			t.Errorf("%s is read as %s (%v)", text, other, err)
		}
		_, _, _ = p.Nodes(), p.FactorNames(), p.Words()
	})
}

// FuzzFilter: a filter that is taken selects some cell, and says of every cell whether it does.
func FuzzFilter(f *testing.F) {
	p, _ := fuzzedPlan(f)
	for _, s := range []string{"", "arm=a", "arm=a|b,scenario!=multi-host", "=", "arm!", "arm==a", ",,", "workload = TCP_RR "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		match, err := p.Filter(expr)
		if err != nil {
			return
		}
		n := 0
		for _, c := range p.Cells {
			if match(c) {
				n++
			}
		}
		if n == 0 {
			t.Errorf("%q selects nothing", expr)
		}
	})
}
