package report

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// originalRun is a run of invented numbers in which the arm xdp is what cilium-like is a model of.
func originalRun(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s := runstest.Synthetic{Seed: 1, Scenarios: []string{"localhost"}, Workloads: []string{"TCP_RR"}, Policies: []int{0, 100}, Arms: []string{"cilium-like", "xdp", "docker"}, Blocks: 1, Trials: 8,
		Spoil: func(rows []record.Row, f map[string]string) []record.Row {
			more := map[string]float64{entriesMetric: 101}
			if f["arm"] == "xdp" {
				more = map[string]float64{entriesMetric: 102, revisionMetric: 3, versionMetric: 1017003, untestedMetric: 1}
			}
			for metric, v := range more {
				if f["policies"] == "100" && f["arm"] != "docker" {
					r := rows[0]
					r.Metric, r.Unit, r.Value = metric, "1", v
					rows = append(rows, r)
				}
			}
			return rows
		}}
	s.Write(t, dir)
	words := catalog.Schema1()
	for i, f := range words.Filters {
		if f.Name == "xdp-hash" {
			words.Filters[i].Model, words.Filters[i].External = &catalog.Pair{Fabric: "bpf", Filter: "tc-hash"}, "example"
		}
	}
	file := filepath.Join(dir, runs.PlanFile)
	data, err := os.ReadFile(file)
	must(t, err)
	var plan map[string]any
	must(t, json.Unmarshal(data, &plan))
	plan["catalog"] = words
	data, err = json.Marshal(plan)
	must(t, err)
	must(t, os.WriteFile(file, data, 0o600))
	return dir
}

// TestModels: the original and its model are compared at each number of policies, with what was
// proven of both, and claims about the model are judged by the original as well.
func TestModels(t *testing.T) {
	out, _ := makeReport(t, Options{}, originalRun(t))
	var doc Document
	must(t, json.Unmarshal([]byte(read(t, out, "report.json")), &doc))
	if len(doc.Models) != 2 {
		t.Fatalf("%d comparisons, want one for each number of policies", len(doc.Models))
	}
	m := doc.Models[1]
	if m.Arm != "xdp" || m.Model != "cilium-like" || m.Version != "1.17.3" || m.Policies != 100 || m.OK != 8 || m.Tried != 8 || m.Entries != "102" || m.ModelEntries != "101" || m.Revision != "3" {
		t.Errorf("%+v", m)
	}
	if r := m.Costs[0].Ratio; r == nil || math.Abs(r.Estimate-27.0/25) > 0.02 || !r.Excludes(1) {
		t.Errorf("the original costs %+v times as much, want 1.08", r)
	}
	byID := map[string]claims.Verdict{}
	for _, v := range doc.Claims {
		byID[v.ID] = v
	}
	model, original := byID["localhost-latency-ebpf-flat"], byID["localhost-latency-ebpf-flat-xdp-hash"]
	if model.Verdict != claims.Reproduced || model.Deciding().Arm != "cilium-like" || original.Verdict != claims.Reproduced || original.Deciding().Arm != "xdp" {
		t.Errorf("the claim is %q for the model and %q for the original", model.Verdict, original.Verdict)
	}
	if !strings.HasSuffix(original.Source, ", of example itself") {
		t.Errorf("the source is %q", original.Source)
	}
	text := read(t, out, "report.md")
	for _, want := range []string{"## The model and what it is a model of", "| localhost | xdp | 1.17.3 | 100 | 8 of 8 | 3 | 102 | 101 | cilium-like |", "Untested version of an agent:** xdp ran 1.17.3,"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
}
