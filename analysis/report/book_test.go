package report

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// twoClocks writes a run on the wall clock and one in virtual time.
func twoClocks(t *testing.T) (wall, virtual string) {
	t.Helper()
	wall, virtual = filepath.Join(t.TempDir(), "rig"), filepath.Join(t.TempDir(), "exact")
	runstest.Small().Write(t, wall)
	s := runstest.Small()
	s.Seed, s.Clock, s.Blocks, s.Trials, s.Spoil = 5, runs.ClockVirtual, 4, 1, nil
	s.Write(t, virtual)
	rows := filepath.Join(virtual, runs.RowsFile)
	runstest.WriteFile(t, rows, []byte(strings.ReplaceAll(read(t, rows), ",synthetic,", ",exact,")))
	return wall, virtual
}

// TestTwoClocks: a report of runs on both clocks has a part for each and never
// one table, whatever the order in which they are given.
func TestTwoClocks(t *testing.T) {
	wall, virtual := twoClocks(t)
	out, res := makeReport(t, Options{}, wall, virtual)
	if len(res.Answers) != 4 || res.Answers[0].Clock != runs.ClockVirtual || res.Answers[3].Clock != runs.ClockWall {
		t.Fatalf("answers %+v, want two places in virtual time, then on the wall clock", res.Answers)
	}
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Parts) != 2 || len(doc.Summaries) != 0 || doc.Parts[0].Clock != runs.ClockVirtual || doc.Parts[1].Clock != runs.ClockWall {
		t.Fatalf("report.json has %d parts and %d summaries beside them", len(doc.Parts), len(doc.Summaries))
	}
	for _, name := range []string{"report.md", "report.html"} {
		text, _, _ := strings.Cut(read(t, out, name), `<script type="application/json"`)
		exact, rig := strings.Index(text, "In virtual time: exact"), strings.Index(text, "On the wall clock: a demonstration")
		if exact < 0 || rig < 0 {
			t.Fatalf("%s has not both parts", name)
		}
		if answer := strings.Index(text, "The answer"); answer < 0 || answer > exact {
			t.Errorf("%s does not begin with the answer", name)
		}
		first, second := text[strings.LastIndex(text, "In virtual time: exact"):strings.LastIndex(text, "On the wall clock: a demonstration")], text[strings.LastIndex(text, "On the wall clock: a demonstration"):]
		if strings.Contains(second, "virtual µs") || strings.Contains(second, "virtual second") {
			t.Errorf("%s: the part of the wall clock has virtual units", name)
		}
		if !strings.Contains(first, "virtual µs") || regexp.MustCompile(`latency, µs`).MatchString(first) {
			t.Errorf("%s: the part of virtual time has others", name)
		}
	}
	data := dataIn(t, out)
	if len(data.Parts) != 2 || data.Parts[0].ID != "virtual" || data.Parts[1].ID != "wall" {
		t.Fatalf("the page has data of %d parts", len(data.Parts))
	}
	for _, part := range data.Parts {
		for _, v := range part.Views {
			if strings.Contains(v.Unit, "virtual") != (part.Clock == runs.ClockVirtual) {
				t.Errorf("part %s has the unit %q", part.ID, v.Unit)
			}
		}
	}
	for _, prefix := range []string{"virtual-", "wall-"} {
		read(t, out, "figures", prefix+"throughput-localhost.svg")
	}
	ids := map[string]bool{}
	for _, id := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(read(t, out, "report.html"), -1) {
		if ids[id[1]] {
			t.Errorf("report.html has two elements %q", id[1])
		}
		ids[id[1]] = true
	}
	again, _ := makeReport(t, Options{}, virtual, wall)
	compareTrees(t, again, out)
}

// TestPartIsTheReportAlone: what a part says does not depend on the other.
func TestPartIsTheReportAlone(t *testing.T) {
	wall, virtual := twoClocks(t)
	both, _ := makeReport(t, Options{}, wall, virtual)
	alone, _ := makeReport(t, Options{}, virtual)
	var b, a Document
	for dir, doc := range map[string]*Document{both: &b, alone: &a} {
		if err := json.Unmarshal([]byte(read(t, dir, "report.json")), doc); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.Parts) != 2 {
		t.Fatalf("%d parts", len(b.Parts))
	}
	part, whole := b.Parts[0], a
	whole.Answers = part.Answers
	x, _ := json.Marshal(part)
	y, _ := json.Marshal(whole)
	if string(x) != string(y) {
		t.Errorf("part:\n%s\nalone:\n%s", x, y)
	}
}
