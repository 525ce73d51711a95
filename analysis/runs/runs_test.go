package runs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
)

const plan = `{"spec": {"Name": "x", "Lab": {"Clock": %[1]q}, "Measure": {"Blocks": 4, "Seeds": 2, "Estimator": "faster-half", "Stop": {"ci": 0.02, "min": 5, "max": 30}}},
 "cells": [{"id": "c1", "factors": {"scenario": "localhost", "workload": "TCP_RR", "arm": "a", "policies": "10", "clock": %[1]q}}],
 "trials": [{"block": 1, "trial": 1, "cell": "c1"}, {"block": 1, "trial": 2, "cell": "c1"}, {"block": 2, "trial": 1, "cell": "c1"}]}`

func trial(cell string, block, n int, status, seed string, value float64) record.Row {
	r := record.Row{Run: "r", Cell: cell, Block: block, Trial: n, Order: block*10 + n, Status: status, Metric: "rate", Unit: "1/s", Value: value,
		Factors: map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": "a", "policies": "10", "clock": "wall"}}
	if seed != "" {
		r.Factors["seed"], r.Factors["clock"] = seed, "virtual"
	}
	if status != record.StatusOK {
		r.Reason = "because"
	}
	return r
}

func write(t *testing.T, clock string, rows []record.Row) string {
	t.Helper()
	dir := t.TempDir()
	factors := []string{"arm", "clock", "policies", "scenario", "seed", "workload"}
	data, err := record.Encode(factors, rows)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		RowsFile: string(record.EncodeHeader(factors)) + string(data), PlanFile: fmt.Sprintf(plan, clock), EnvFile: `{"a": {"b": [1, null]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// of is a run of rows.
func of(t *testing.T, rows ...record.Row) Run {
	t.Helper()
	r := Run{Name: "r"}
	factors := []string{"arm", "clock", "policies", "scenario", "seed", "workload"}
	data, err := record.Encode(factors, rows)
	if err == nil {
		err = r.ReadRows(bytes.NewReader(append(record.EncodeHeader(factors), data...)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// withoutClosing makes a run directory one of the time before trials had closing rows.
func withoutClosing(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, RowsFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range bytes.Lines(data) {
		if bytes.Contains(line, []byte(record.ClosingMetric)) {
			continue
		}
		if bytes.HasPrefix(line, []byte("2,")) {
			line = append([]byte("1"), line[1:]...)
		}
		out = append(out, line...)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadAndArrange(t *testing.T) {
	dir := write(t, ClockVirtual, []record.Row{
		trial("c1", 1, 1, record.StatusVoid, "1", 5), trial("c1", 1, 1, record.StatusOK, "1", 7), trial("c1", 2, 1, record.StatusOK, "2", 9),
	})
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Errorf("two attempts at a trial in one file: %v", err)
	}
	withoutClosing(t, dir)
	all, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := all[0]
	if r.Clock() != ClockVirtual || r.Estimator() != EstimatorFasterHalf || r.Plan.Spec.Measure.Seeds != 2 || *r.Plan.Spec.Measure.Stop != (Stop{0.02, 5, 30}) {
		t.Errorf("run %+v, plan %+v", r.Name, r.Plan.Spec)
	}
	if r.Env["a.b.1"] != "1" || r.Env["a.b.2"] != "" {
		t.Errorf("environment %v", r.Env)
	}
	s, err := Arrange(all)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Cells) != 1 {
		t.Fatalf("%d cells, want 1", len(s.Cells))
	}
	c := s.Cells[0]
	if c.Policies != 10 || c.Get(FactorSeed) != "" || c.Missing() != 1 || c.Count(record.StatusVoid) != 0 || c.Title() != "localhost TCP_RR a N=10" {
		t.Errorf("cell %+v, missing %d", c, c.Missing())
	}
	if got := c.Samples("rate"); !slices.Equal(got, []float64{7, 9}) {
		t.Errorf("samples %v: only ok ones count", got)
	}
	if b := c.Blocks("rate"); len(b) != 2 || b[1].ID != (BlockID{"r", 2, "2"}) || !slices.Equal(b[1].Values, []float64{9}) {
		t.Errorf("blocks %+v", b)
	}
}

func TestLoadRefuses(t *testing.T) {
	wall := write(t, ClockWall, []record.Row{trial("c1", 1, 1, record.StatusOK, "", 1)})
	virtual := write(t, ClockVirtual, []record.Row{trial("c1", 1, 1, record.StatusOK, "1", 1)})
	begun := write(t, ClockVirtual, nil)
	for _, tt := range []struct {
		want string
		dirs []string
	}{
		{"clocks differ, virtual in r (2) but wall in r", []string{wall, virtual}},
		{"clocks differ", []string{wall, begun}},
		{"hold the same rows", []string{wall, wall}},
		{"no run directory", nil},
		{"read rows", []string{t.TempDir()}},
	} {
		if _, err := Load(tt.dirs...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Load(%v): error %v, want %q", tt.dirs, err, tt.want)
		}
	}
}

func TestArrangeRefuses(t *testing.T) {
	a, b := trial("c1", 1, 1, record.StatusOK, "", 1), trial("c1", 1, 2, record.StatusOK, "", 1)
	b.Unit = "s"
	if _, err := Arrange([]Run{of(t, a, b)}); err == nil || !strings.Contains(err.Error(), "metric rate is in") {
		t.Errorf("two units: error %v", err)
	}
	a.Factors["policies"] = "-1"
	if _, err := Arrange([]Run{of(t, a)}); err == nil || !strings.Contains(err.Error(), "want a count") {
		t.Errorf("bad policies: error %v", err)
	}
}

func TestPair(t *testing.T) {
	var rows []record.Row
	for block := 1; block <= 4; block++ {
		for n := 1; n <= 3; n++ {
			rows = append(rows, trial("c1", block, n, record.StatusOK, "", float64(10*block+n)))
			if block < 4 {
				rows = append(rows, trial("c2", block, n, record.StatusOK, "", float64(100*block+n)))
			}
		}
	}
	s, err := Arrange([]Run{of(t, rows...)})
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Cells[0], s.Cells[1]
	p := Pair(a, b, "rate", middle)
	if !p.Paired || p.Blocks != 3 || !slices.Equal(p.A, []float64{12, 22, 32}) || !slices.Equal(p.B, []float64{102, 202, 302}) {
		t.Errorf("pairs %+v", p)
	}
	two := PairBlocks(a.Blocks("rate")[:2], b.Blocks("rate"), middle)
	if two.Paired || len(two.A) != 6 || len(two.B) != 9 || two.Blocks != 2 {
		t.Errorf("two blocks are paired: %+v", two)
	}
}

// middle is an estimator for three values.
func middle(x []float64) float64 { return slices.Sorted(slices.Values(x))[len(x)/2] }

// TestControlCharacters: none of a plan or an environment is read, and neither is a file of
// almost nothing but brackets.
func TestControlCharacters(t *testing.T) {
	dir := write(t, ClockWall, nil)
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(PlanFile, `{"spec": {"name": "a\u001b[2Jb", "description": "two\nlines\u0007"}, "cells": [{"id": "c", "factors": {"a\u0000": "b\u009b"}}]}`)
	put(EnvFile, `{"k\u001b": "v\u001b"}`)
	all, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := all[0]
	if r.Plan.Spec.Name != "a [2Jb" || r.Plan.Spec.Description != "two\nlines " || r.Plan.Cells[0].Factors["a "] != "b " || r.Env["k "] != "v " {
		t.Errorf("read %+q, %+v, %q", r.Plan.Spec.Name, r.Plan.Cells, r.Env)
	}
	for _, bomb := range []string{strings.Repeat("{},", 1<<20), strings.Repeat("0,", 2<<20)} {
		put(EnvFile, `{"a": [`+bomb+`0]}`)
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), " bytes") {
			t.Errorf("error %v, want one about what is in so few bytes", err)
		}
	}
}

// Parts of one boot are paired as one: they have the seed in common.
func TestPartsAreOneBlock(t *testing.T) {
	p := &Plan{}
	for block, want := range map[int]int{1: 1, 2: 2, 7: 7} {
		if got := p.first(block); got != want {
			t.Errorf("without parts block %d counts as %d", block, got)
		}
	}
	p.Spec.Measure.Parts = 3
	for block, want := range map[int]int{1: 1, 3: 1, 4: 4, 6: 4, 7: 7} {
		if got := p.first(block); got != want {
			t.Errorf("of three parts, block %d counts as %d, want %d", block, got, want)
		}
	}
	a := Cell{Trials: []*Trial{{Run: "r", Block: 1, boot: 1, Seed: "1", Status: "ok"}}}
	if b := a.Blocks("none"); len(b) != 0 {
		t.Errorf("%v without values", b)
	}
}
