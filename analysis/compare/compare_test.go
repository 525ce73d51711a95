package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// invented makes a run of two cells; speed scales the latency of the second.
func invented(name, clock string, blocks int, seed uint64, speed float64) made {
	rng := rand.New(rand.NewPCG(seed, 0))
	r := made{Run: runs.Run{Name: name, Env: map[string]string{
		"kernel_release": "6.12.1", "image_sha256.kernel": "aa", "accelerator": "tcg", "host_cpu": "A", "hypervisor.qemu": "10.0", "started": name,
	}}}
	for block := 1; block <= blocks; block++ {
		for trial := 1; trial <= 4; trial++ {
			for n, arm := range []string{"docker", "iptables"} {
				f := map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": arm, "policies": "0", "clock": clock, "kernel": "6.12"}
				if clock == runs.ClockVirtual {
					f["seed"] = strconv.Itoa(block)
				}
				v := math.Exp(rng.NormFloat64() * 0.002)
				if n == 1 {
					v *= speed
				}
				r.Rows = append(r.Rows, record.Row{Run: name, Cell: fmt.Sprint("c", n), Block: block, Trial: trial, Order: len(r.Rows) + 1,
					Status: record.StatusOK, Metric: "latency_mean", Unit: "s", Value: v, Factors: f})
			}
		}
	}
	return r
}

// made is a run before its rows are read.
type made struct {
	runs.Run
	Rows []record.Row
}

func compareMade(t *testing.T, old, now made, opt Options) (Result, error) {
	t.Helper()
	return Runs(runstest.Read(t, old.Run, old.Rows), runstest.Read(t, now.Run, now.Rows), opt)
}

func mustRuns(t *testing.T, old, now made, opt Options) Result {
	t.Helper()
	res, err := compareMade(t, old, now, opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(res); err != nil {
		t.Fatal(err)
	}
	return res
}

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		clock  string
		blocks int
		speed  float64
		want   string
		paired bool
	}{
		{runs.ClockWall, 1, 1, Same, false}, {runs.ClockWall, 5, 1, Same, false}, {runs.ClockWall, 1, 1.2, Different, false},
		{runs.ClockWall, 5, 0.8, Different, false}, {runs.ClockWall, 1, 1.02, Undecided, false}, {runs.ClockVirtual, 4, 1.2, Different, true},
	} {
		old, now := invented("old", tt.clock, tt.blocks, 1, 1), invented("new", tt.clock, tt.blocks, 2, tt.speed)
		res := mustRuns(t, old, now, Options{})
		c := res.Cells[1]
		if (c.Verdict == Undecided) != (c.Decides != nil) || c.Decides != nil && (c.Decides.N <= c.NewTrials || !strings.Contains(c.Reason, c.Decides.String())) {
			t.Errorf("%+v: %s is decided by %v, %q", tt, c.Verdict, c.Decides, c.Reason)
		}
		if c.Verdict != tt.want || c.Paired != tt.paired || res.Cells[0].Verdict != Same || res.Reproduced() != (tt.want == Same) {
			t.Errorf("%+v: %s, paired %v, ratio %+v, first cell %s, reproduced %v", tt, c.Verdict, c.Paired, c.Ratio, res.Cells[0].Verdict, res.Reproduced())
		}
	}
}

func TestIdentical(t *testing.T) {
	old, now := invented("old", runs.ClockVirtual, 3, 1, 1), invented("new", runs.ClockVirtual, 3, 1, 1)
	if res := mustRuns(t, old, now, Options{}); !res.Identical || !res.Reproduced() || len(res.Rows) > 0 {
		t.Errorf("equal rows: %+v", res)
	}
	now.Rows[5].Value *= 1 + 1e-15
	now.Rows = now.Rows[:len(now.Rows)-1]
	res := mustRuns(t, old, now, Options{})
	if res.Identical || res.RowsDiffering != 2 || res.Rows[0].Cell != "c1" || res.Rows[0].Trial != 3 || res.Rows[1].New != "no such row" {
		t.Errorf("rows: %+v", res.Rows)
	}
	if res.Cells[0].Ratio.Estimate != 1 || res.Cells[0].Reason != "equal in every trial" {
		t.Errorf("cell with equal rows: %+v", res.Cells[0])
	}
	// On the wall clock equal rows are those of one run, and a single number that differs is not.
	wall, copied := invented("old", "wall", 1, 1, 1), invented("new", "wall", 1, 1, 1)
	if res := mustRuns(t, wall, copied, Options{}); !res.Identical || !res.Reproduced() {
		t.Errorf("a run and its copy: %+v", res)
	}
	copied.Rows[0].Value *= 1 + 1e-15
	if res := mustRuns(t, wall, copied, Options{}); res.Identical || len(res.Rows) > 0 {
		t.Errorf("wall-clock rows that differ: %+v", res)
	}
}

func TestUnlike(t *testing.T) {
	for _, tt := range []struct{ clock, key, value, want string }{
		{"wall", "kernel_release", "6.18.0", "kernel_release was 6.12.1, is 6.18.0"},
		{"wall", "image_sha256.kernel", "bb", "image_sha256.kernel was aa, is bb"},
		{"wall", "guest_sha256", "cc", "guest_sha256 was not recorded, is cc"},
		{"wall", "hypervisor.qemu", "11.0", "hypervisor.qemu was 10.0, is 11.0"},
		{"wall", "hypervisors.node2.qemu", "11.0", "hypervisors.node2.qemu was not recorded, is 11.0"},
		{"wall", "hypervisors.node2.uri", "qemu+ssh://b/system", ""},
		{"wall", "accelerator", "kvm", "accelerator was tcg, is kvm"},
		{"wall", "host_cpu", "B", "host_cpu was A, is B"},
		{"wall", "nodes.node1.kernel.release", "6.18.0", "nodes.node1.kernel.release"},
		{"virtual", "host_cpu", "B", ""},
		{"wall", "started", "later", ""},
	} {
		old, now := invented("old", tt.clock, 1, 1, 1), invented("new", tt.clock, 1, 2, 1)
		now.Env[tt.key] = tt.value
		_, err := compareMade(t, old, now, Options{})
		var unlike *runs.UnlikeError
		if (tt.want != "") != errors.As(err, &unlike) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: error %v, want %q", tt.clock, tt.key, err, tt.want)
		}
		if res := mustRuns(t, old, now, Options{Across: true}); (tt.want != "") != (len(res.Environment) == 1) {
			t.Errorf("%s: across says %v", tt.key, res.Environment)
		}
	}
	if _, err := compareMade(t, invented("old", "wall", 1, 1, 1), invented("new", "virtual", 1, 1, 1), Options{Across: true}); err == nil || !strings.Contains(err.Error(), "clock was wall, is virtual") {
		t.Errorf("two clocks: error %v", err)
	}
	bare := invented("bare", "wall", 1, 1, 1)
	bare.Env = nil
	if _, err := compareMade(t, bare, bare, Options{}); err == nil || !strings.Contains(err.Error(), "env.json was not recorded") {
		t.Errorf("nothing recorded: error %v", err)
	}
}

func TestAcrossMatchesCells(t *testing.T) {
	old, now := invented("old", "wall", 1, 1, 1), invented("new", "wall", 1, 2, 1)
	for i := range now.Rows {
		now.Rows[i].Cell, now.Rows[i].Factors["kernel"] = now.Rows[i].Cell+"x", "6.18"
	}
	res := mustRuns(t, old, now, Options{})
	if len(res.Cells) != 4 || res.Cells[0].Verdict != Missing || res.Cells[3].Reason != "not in new" || res.Reproduced() {
		t.Errorf("cells of another kernel: %+v", res.Cells)
	}
	if res := mustRuns(t, old, now, Options{Across: true}); len(res.Cells) != 2 || !res.Reproduced() {
		t.Errorf("across: %+v", res.Cells)
	}
}

func TestNoNumbers(t *testing.T) {
	spoil := func(r made, status string) made {
		r.Rows = slices.Clone(r.Rows)
		for i := range r.Rows {
			if r.Rows[i].Cell == "c1" {
				r.Rows[i].Status, r.Rows[i].Reason = status, "because"
			}
		}
		return r
	}
	good := invented("old", "wall", 1, 1, 1)
	for _, tt := range []struct {
		old, now made
		want     string
	}{
		{good, spoil(good, record.StatusFailed), Undecided},
		{spoil(good, record.StatusUnsupported), spoil(good, record.StatusUnsupported), Same},
		{spoil(good, record.StatusFailed), spoil(good, record.StatusFailed), Undecided},
	} {
		if c := mustRuns(t, tt.old, tt.now, Options{}).Cells[1]; c.Verdict != tt.want || c.Reason == "" {
			t.Errorf("cell %+v, want %s", c, tt.want)
		}
	}
	one := good
	one.Rows = good.Rows[:2]
	other := one
	other.Rows = slices.Clone(one.Rows)
	other.Rows[0].Value *= 1 + 1e-15
	if c := mustRuns(t, one, other, Options{}).Cells[1]; c.Verdict != Undecided || c.Reason != "too few trials for an interval; it takes at least 2 trials a cell" {
		t.Errorf("one trial: %+v", c)
	}
}

// A run whose cells have an option at its default matches a run that was made
// before the option existed.
func TestOptionsAtTheirDefaultAreNoOtherCells(t *testing.T) {
	old, now := invented("old", runs.ClockVirtual, 3, 1, 1), invented("new", runs.ClockVirtual, 3, 1, 1)
	for i := range now.Rows {
		f := maps.Clone(now.Rows[i].Factors)
		f["filter"], f["prealloc"] = "tc-hash", "off"
		now.Rows[i].Factors, now.Rows[i].Cell = f, now.Rows[i].Cell+"-later"
		f = maps.Clone(old.Rows[i].Factors)
		f["filter"] = "tc-hash"
		old.Rows[i].Factors = f
	}
	res := mustRuns(t, old, now, Options{})
	if res.Identical || len(res.Cells) == 0 || !res.Reproduced() {
		t.Errorf("identical %v, cells %+v", res.Identical, res.Cells)
	}
	for i := range now.Rows {
		now.Rows[i].Factors["prealloc"] = "on"
	}
	for _, c := range mustRuns(t, old, now, Options{}).Cells {
		if c.Verdict != Missing {
			t.Errorf("asked for, it is the same cell: %+v", c)
		}
	}
}
