package history

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

func updateFlag() *bool { return flag.Bool("update", false, "rewrite the files under testdata") }

var update = updateFlag()

// world has the latency of each cell, in seconds, night by night.
type world struct {
	clock string
	cells map[string][]float64 // by arm
}

// nights writes the runs of a world and reads them.
func (w world) nights(t *testing.T) []*Night {
	t.Helper()
	var out []*Night
	count := 0
	for _, values := range w.cells {
		count = max(count, len(values))
	}
	for i := range count {
		dir := t.TempDir()
		w.write(t, dir, i)
		all, err := runs.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("202601%02dT020000Z", i+1)
		n := &Night{Name: name, Date: name, Revision: "r" + strconv.Itoa(i), Verdict: "reproduced"}
		if err := n.Read(all[0]); err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func (w world) write(t *testing.T, dir string, night int) {
	t.Helper()
	factors := []string{"arm", "clock", "policies", "scenario", "seed", "workload"}
	var rows []record.Row
	arms := slices.Sorted(func(yield func(string) bool) {
		for arm := range w.cells {
			if !yield(arm) {
				return
			}
		}
	})
	for _, arm := range arms {
		for trial, by := range []float64{-1e-6, 0, 1e-6} { // the median is the value
			f := map[string]string{"arm": arm, "clock": w.clock, "policies": "0", "scenario": "localhost", "workload": "TCP_RR"}
			if w.clock == runs.ClockVirtual {
				f["seed"] = strconv.Itoa(trial + 1)
			}
			rows = append(rows, record.Row{Run: "nightly", Cell: "cell-" + arm, Block: trial + 1, Trial: 1, Order: len(rows) + 1, Status: record.StatusOK,
				Metric: "latency_mean", Unit: "s", Value: w.cells[arm][night] + by, Factors: f})
		}
	}
	data, err := record.Encode(factors, rows)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		runs.RowsFile: string(record.EncodeHeader(factors)) + string(data),
		runs.PlanFile: `{"spec": {"name": "invented", "lab": {"clock": "` + w.clock + `"}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// noisy are n latencies around 100 µs with a spread of 1 %, from the night at on larger by step.
func noisy(seed uint64, n, at int, step float64) []float64 {
	random := rand.New(rand.NewPCG(seed, seed))
	out := make([]float64, n)
	for i := range out {
		out[i] = 100e-6 * (1 + 0.01*random.NormFloat64())
		if i >= at {
			out[i] *= 1 + step
		}
		out[i] = float64(int(out[i]*1e9)) * 1e-9
	}
	return out
}

// wall is a world of twenty nights in which one arm became slower by a tenth on the eleventh night,
// one has noise only, and one had a bad night.
func wall() world {
	outlier := noisy(3, 20, 20, 0)
	outlier[7] *= 5
	return world{runs.ClockWall, map[string][]float64{"step": noisy(1, 20, 10, 0.1), "noise": noisy(2, 20, 20, 0), "outlier": outlier}}
}

// virtual is a world of six nights: one arm never moves, one by a tenth, one by a thousandth.
func virtual() world {
	return world{runs.ClockVirtual, map[string][]float64{
		"same": {100e-6, 100e-6, 100e-6, 100e-6, 100e-6, 100e-6}, "step": {100e-6, 100e-6, 100e-6, 110e-6, 110e-6, 110e-6},
		"bit": {100e-6, 100e-6, 99.9e-6, 99.9e-6, 99.9e-6, 99.9e-6},
	}}
}

func find(t *testing.T, h History, arm string) Series {
	t.Helper()
	for _, s := range h.Series {
		if s.Cell == "cell-"+arm {
			return s
		}
	}
	t.Fatalf("there is no series of %s", arm)
	return Series{}
}

func TestOnlyTheStepChanged(t *testing.T) {
	h := Make(wall().nights(t), Options{})
	s := find(t, h, "step")
	if s.Word != Changed || len(s.Changes) != 1 || s.Changes[0].Night != "20260111T020000Z" || s.Changes[0].After != "20260110T020000Z" {
		t.Fatalf("the step: %+v", s)
	}
	if c := s.Changes[0]; c.Ratio < 1.08 || c.Ratio > 1.12 || !c.Beyond || c.Better || c.Conf < 0.99 {
		t.Errorf("the step: %+v", c)
	}
	for _, arm := range []string{"noise", "outlier"} {
		if s := find(t, h, arm); s.Word != NoChange || len(s.Changes) > 0 {
			t.Errorf("%s: %+v", arm, s)
		}
	}
	if h.Series[0].Cell != "cell-step" {
		t.Error("what changed is not the first")
	}
}

func TestFewNightsOnWallClocksDecideNothing(t *testing.T) {
	w := wall()
	for arm, values := range w.cells {
		w.cells[arm] = values[7:14]
	}
	for _, s := range Make(w.nights(t), Options{}).Series {
		if s.Word != TooFew || len(s.Changes) > 0 {
			t.Errorf("%s: %+v", s.Cell, s)
		}
	}
}

func TestVirtualTimeIsExact(t *testing.T) {
	h := Make(virtual().nights(t), Options{})
	if s := find(t, h, "same"); s.Word != NoChange {
		t.Errorf("same: %+v", s)
	}
	if s := find(t, h, "step"); s.Word != Changed || len(s.Changes) != 1 || s.Changes[0].Night != "20260104T020000Z" || s.Changes[0].Conf != 1 {
		t.Errorf("step: %+v", s)
	}
	if s := find(t, h, "bit"); s.Word != Small || len(s.Changes) != 1 || s.Changes[0].Beyond || !s.Changes[0].Better {
		t.Errorf("bit: %+v", s)
	}
}

// A night without numbers is in the table and in no series; a cell that came later begins there.
func TestGapsAreNoChanges(t *testing.T) {
	nights := virtual().nights(t)
	nights[2] = &Night{Name: "20260103T020000Z", Verdict: "failed"}
	h := Make(nights, Options{})
	if s := find(t, h, "same"); len(s.Values) != 5 || s.Word != NoChange {
		t.Errorf("same: %+v", s)
	}
	var b bytes.Buffer
	if err := h.Text(&b); err != nil || !strings.Contains(b.String(), "no numbers") {
		t.Errorf("%v\n%s", err, &b)
	}
}

func TestGolden(t *testing.T) {
	for name, w := range map[string]world{"wall": wall(), "virtual": virtual()} {
		h := Make(w.nights(t), Options{})
		h.Nights[1].Environment = []runs.Difference{{What: "kernel_release", Old: "6.12", New: "6.18"}}
		var text, lines, page bytes.Buffer
		for _, err := range []error{h.Text(&text), h.CSV(&lines), h.Page(&page, "invented")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		golden(t, name+".txt", text.Bytes())
		golden(t, name+".csv", lines.Bytes())
		golden(t, name+".html", page.Bytes())
		if again := Make(w.nights(t), Options{}); !slices.EqualFunc(again.Series, h.Series, func(a, b Series) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
			t.Error("the same nights have another history")
		}
		if _, err := json.Marshal(h); err != nil {
			t.Error(err)
		}
		if strings.Contains(page.String(), "http://www.w3.org") != true || strings.Count(page.String(), "http") != len(h.Series) {
			t.Error("the page names addresses other than SVG's name space")
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got:\n%s\n(if this is meant: go test -update)", name, got)
	}
}

// A cell's name is data, also in the page.
func TestThePageEscapes(t *testing.T) {
	nights := world{runs.ClockVirtual, map[string][]float64{"<script>": {1, 2}}}.nights(t)
	var b bytes.Buffer
	if err := Make(nights, Options{}).Page(&b, "<b>"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script") || strings.Contains(b.String(), "<b>") {
		t.Error("a name is not escaped")
	}
}
