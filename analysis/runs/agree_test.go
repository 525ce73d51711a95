package runs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/record"
)

// seeded is a plan in virtual time, of two cells in two blocks.
const seeded = `{"spec": {"lab": {"clock": "virtual"}},
 "blocks": [{"number": 1, "seed": 1}, {"number": 2, "seed": 2}],
 "cells": [{"id": "c1", "factors": {"arm": "a", "policies": "10", "clock": "virtual"}}, {"id": "c2", "factors": {"arm": "b", "policies": "10", "clock": "virtual", "state": "as-study"}}],
 "trials": [{"block": 1, "trial": 1, "cell": "c1"}, {"block": 1, "trial": 1, "cell": "c2"}, {"block": 2, "trial": 1, "cell": "c2"}]}`

func TestRowsThatContradictThePlan(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *record.Row)
		want   string
	}{
		"as planned":             {func(*record.Row) {}, ""},
		"unknown cell":           {func(r *record.Row) { r.Cell = "c9" }, "cell c9 is not in plan.json"},
		"unknown block":          {func(r *record.Row) { r.Block = 3 }, "cell c2, block 3, trial 1 is not in plan.json"},
		"unknown trial":          {func(r *record.Row) { r.Trial = 2 }, "cell c2, block 2, trial 2 is not in plan.json"},
		"another cell's trial":   {func(r *record.Row) { r.Cell = "c1" }, "cell c1, block 2, trial 1 is not in plan.json"},
		"another level":          {func(r *record.Row) { r.Factors["policies"] = "1000" }, `factor policies is "1000", and in plan.json cell c2 has "10"`},
		"a level that is absent": {func(r *record.Row) { delete(r.Factors, "state") }, `factor state is no level, and in plan.json cell c2 has "as-study"`},
		"a factor of no cell":    {func(r *record.Row) { r.Factors["colour"] = "red" }, `factor colour is "red", and in plan.json cell c2 has no level`},
		"another seed":           {func(r *record.Row) { r.Factors["seed"] = "1" }, `seed is "1", and in plan.json block 2 has "2"`},
		"no seed":                {func(r *record.Row) { delete(r.Factors, "seed") }, `seed is no level, and in plan.json block 2 has "2"`},
	} {
		t.Run(name, func(t *testing.T) {
			rows := []record.Row{
				{Run: "r", Cell: "c1", Block: 1, Trial: 1, Order: 1, Status: record.StatusOK, Metric: "rate", Unit: "1/s", Value: 1,
					Factors: map[string]string{"arm": "a", "policies": "10", "clock": "virtual", "seed": "1"}},
				{Run: "r", Cell: "c2", Block: 2, Trial: 1, Order: 3, Status: record.StatusOK, Metric: "rate", Unit: "1/s", Value: 1,
					Factors: map[string]string{"arm": "b", "policies": "10", "clock": "virtual", "state": "as-study", "seed": "2"}},
			}
			c.change(&rows[1])
			dir := t.TempDir()
			save(t, dir, rows, seeded)
			_, err := Load(dir)
			var contradiction *ContradictionError
			if errors.As(err, &contradiction) != (c.want != "") || (err == nil) != (c.want == "") {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if err != nil && (contradiction.Line != 4 || !strings.Contains(err.Error(), filepath.Join(dir, RowsFile)+": line 4: "+c.want)) {
				t.Errorf("error %v, want file, line 4 and %q", err, c.want)
			}
			// Rows without a plan are read as they are.
			if err := os.Remove(filepath.Join(dir, PlanFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err != nil {
				t.Errorf("without plan.json: %v", err)
			}
		})
	}
}

// On wall clocks blocks have no seeds.
func TestSeedsOnWallClocks(t *testing.T) {
	p, err := ParsePlan([]byte(fmt.Sprintf(plan, ClockWall)))
	if err != nil {
		t.Fatal(err)
	}
	row := trial("c1", 1, 1, record.StatusOK, "", 1)
	check := func() error { return p.Checker().Trial(&record.Trial{Rows: []record.Row{row}}) }
	if err := check(); err != nil {
		t.Error(err)
	}
	row.Factors["seed"] = "1"
	if err := check(); err == nil || !strings.Contains(err.Error(), `seed is "1"`) {
		t.Errorf("error %v, want one about the seed", err)
	}
}

// save writes a run directory.
func save(t *testing.T, dir string, rows []record.Row, plan string) {
	t.Helper()
	all := map[string]bool{}
	for _, r := range rows {
		for f := range r.Factors {
			all[f] = true
		}
	}
	var factors []string
	for f := range maps.Keys(all) {
		factors = append(factors, f)
	}
	lines, err := record.Encode(factors, rows)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{RowsFile: string(record.EncodeHeader(factors)) + string(lines), PlanFile: plan} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
