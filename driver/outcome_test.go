package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// The exit code of a run that came to its end, by how its trials ended.
func TestExitCodeOfAFinishedRun(t *testing.T) {
	const ok, failed, void, rig, unsupported = record.StatusOK, record.StatusFailed, record.StatusVoid, record.StatusRig, record.StatusUnsupported
	for _, tc := range []struct {
		statuses []string
		teardown string // whose fault
		want     int
	}{
		{[]string{ok, ok}, "", exitOK},
		{[]string{ok, unsupported}, "", exitOK},
		{[]string{ok, ok}, rig, exitOK},
		{[]string{ok, ok}, failed, exitFailedCells},
		{[]string{ok, failed}, "", exitFailedCells},
		{[]string{ok, void}, "", exitFailedCells},
		{[]string{ok, rig}, "", exitFailedCells},
		{[]string{unsupported, unsupported}, "", exitFailedCells},
		{[]string{unsupported, failed}, "", exitFailedCells},
		{[]string{rig, failed}, "", exitFailedCells},
		{[]string{rig, void}, "", exitFailedCells},
		{[]string{rig, rig}, "", exitRig},
		{[]string{rig, unsupported}, "", exitRig},
		{nil, "", exitFailedCells},
	} {
		j := recorded(t, tc.statuses...)
		o := outcomeOf(j, campaign.Result{})
		if tc.teardown != "" {
			o.teardown = []campaign.TeardownFault{{Status: tc.teardown, Reason: "x"}}
		}
		if err := o.err(j.dir); exitCode(err) != tc.want {
			t.Errorf("%v, teardown %q: exit code %d (%v), want %d", tc.statuses, tc.teardown, exitCode(err), err, tc.want)
		}
	}
}

// recorded is a job whose first trials, of a cell each, ended so.
func recorded(t *testing.T, statuses ...string) job {
	t.Helper()
	policies := make([]string, 20)
	for i := range policies {
		policies[i] = fmt.Sprint(i + 1)
	}
	text := strings.Replace(twoTrials, "policies = [10]", "policies = ["+strings.Join(policies, ", ")+"]", 1)
	spec, err := plan.Parse("test.toml", []byte(strings.Replace(text, "trials = 2", "trials = 1", 1)), catalog())
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(spec, catalog())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	for i, status := range statuses {
		tr := p.Trials[i]
		cell, _ := p.CellByID(tr.Cell)
		row := record.Row{Run: dir.Name(), Cell: tr.Cell, Block: tr.Block, Trial: tr.Trial, Order: tr.Order, Status: status, Factors: cell.Factors}
		if status == record.StatusOK {
			row.Metric, row.Unit, row.Value = "rate", "1/s", 1
		} else {
			row.Reason = "because\nof " + strings.Repeat("something ", 50)
		}
		if err := dir.AppendRows([]record.Row{row}); err != nil {
			t.Fatal(err)
		}
	}
	return job{dir: dir, plan: p, selected: p.Trials}
}

// A cell without a number has one line, and a terminal is not flooded.
func TestSummaryIsBounded(t *testing.T) {
	statuses := make([]string, 15)
	for i := range statuses {
		statuses[i] = record.StatusFailed
	}
	j := recorded(t, statuses...)
	var out bytes.Buffer
	outcomeOf(j, campaign.Result{Status: map[string]int{record.StatusFailed: 15}}).print(&out, j.dir, campaign.Result{Status: map[string]int{record.StatusFailed: 15}}, 0)
	text := out.String()
	if n := strings.Count(text, "  failed      localhost"); n != troubleLines {
		t.Errorf("%d lines of cells, want %d:\n%s", n, troubleLines, text)
	}
	if !strings.Contains(text, "and 5 more cells") || strings.Contains(text, "recorded before") {
		t.Errorf("summary:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if len(line) > reasonWidth+80 {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
}
