package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// invented is a run of six trials per cell; the cells of arm xdp have the given status.
func invented(t *testing.T, clock, status string) *runs.Set {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	r := runs.Run{Name: "invented", Env: map[string]string{"kernel_release": "6.12.1", "accelerator": "tcg"}}
	var rows []record.Row
	for block := 1; block <= 3; block++ {
		for trial := 1; trial <= 2; trial++ {
			for i, arm := range []string{"docker", "iptables as study", "xdp"} {
				f := map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": arm, "policies": fmt.Sprint(10 * i), "clock": clock, "congestion": "reno", "filter": "of " + arm}
				if clock == runs.ClockVirtual {
					f["seed"] = fmt.Sprint(block)
				}
				v := (1 + float64(i)) * math.Exp(rng.NormFloat64()*0.01)
				row := record.Row{Run: r.Name, Cell: fmt.Sprint("c", i), Block: block, Trial: trial, Status: record.StatusOK, Metric: "latency_mean", Unit: "s", Value: v * 1e-5, Factors: f}
				if arm == "xdp" && status != record.StatusOK {
					row.Status, row.Reason, row.Metric, row.Unit, row.Value = status, "because <of> \"this\"", "", "", 0
					rows = append(rows, row)
					continue
				}
				rows = append(rows, row)
				row.Metric, row.Unit, row.Value = "rate", "1/s", 1e5/v
				rows = append(rows, row)
			}
		}
	}
	set, err := runs.Arrange([]runs.Run{runstest.Read(t, r, rows)})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func written(t *testing.T, format string, set *runs.Set) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, format, set); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCSV(t *testing.T) {
	lines, err := csv.NewReader(bytes.NewReader(written(t, FormatCSV, invented(t, "wall", record.StatusFailed)))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 1+2*6*2+6 || strings.Join(lines[0][:10], ",") != "run,cell,block,trial,seed,status,reason,metric,unit,value" {
		t.Errorf("%d lines, header %v", len(lines), lines[0])
	}
	if last := lines[len(lines)-1]; last[5] != "failed" || last[7] != "" || last[9] != "" || last[slices.Index(lines[0], "arm")] != "xdp" {
		t.Errorf("a failed trial is %v", last)
	}
}

func TestJSON(t *testing.T) {
	var doc struct {
		Clock        string
		Measurements []measurement
	}
	if err := json.Unmarshal(written(t, FormatJSON, invented(t, "virtual", record.StatusVoid)), &doc); err != nil {
		t.Fatal(err)
	}
	first, last := doc.Measurements[0], doc.Measurements[len(doc.Measurements)-1]
	if doc.Clock != "virtual" || first.Seed != "1" || first.Metric != "latency_mean" || *first.Value <= 0 || last.Value != nil || last.Status != "void" {
		t.Errorf("clock %s, first %+v, last %+v", doc.Clock, first, last)
	}
}

func TestJUnit(t *testing.T) {
	for status, want := range map[string]string{record.StatusOK: "", record.StatusFailed: "failure", record.StatusVoid: "error", record.StatusRig: "error", record.StatusUnsupported: "skipped"} {
		var suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name  string `xml:"name,attr"`
				Inner string `xml:",innerxml"`
			} `xml:"testcase"`
		}
		if err := xml.Unmarshal(written(t, FormatJUnit, invented(t, "wall", status)), &suite); err != nil {
			t.Fatal(err)
		}
		n := map[string]int{"failure": suite.Failures, "error": suite.Errors, "skipped": suite.Skipped}
		if suite.Tests != 3 || n[want] != map[bool]int{true: 1}[want != ""] || suite.Failures+suite.Errors+suite.Skipped != n[want] {
			t.Errorf("%s: %+v", status, suite)
		}
		if want != "" && !strings.Contains(suite.Cases[2].Inner, "<"+want+" message=\""+status+": because") {
			t.Errorf("%s: case %s", status, suite.Cases[2].Inner)
		}
	}
}

func TestBenchReader(t *testing.T) {
	for _, clock := range []string{"wall", "virtual"} {
		data := written(t, FormatBench, invented(t, clock, record.StatusFailed))
		reader := benchfmt.NewReader(bytes.NewReader(data), "invented")
		n := 0
		for reader.Scan() {
			switch rec := reader.Result().(type) {
			case *benchfmt.Result:
				n++
				_, parts := rec.Name.Parts()
				if len(rec.Values) != 2 || string(parts[0]) != "/scenario=localhost" || rec.GetConfig("kernel-release") != "6.12.1" || rec.GetConfig("clock") != clock || rec.GetConfig("run") != "" || len(parts) != 4 {
					t.Fatalf("result %q with %v", rec.Name, rec.Values)
				}
				latency := map[string]string{"wall": "latency_mean-s", "virtual": "latency_mean-virtual-s"}[clock]
				if _, ok := rec.Value(latency); !ok {
					t.Fatalf("no %s in %v", latency, rec.Values)
				}
			default:
				t.Fatalf("record %T: %v", rec, rec)
			}
		}
		if reader.Err() != nil || n != 12 {
			t.Errorf("%d results, error %v; failed trials are no results", n, reader.Err())
		}
	}
}

// benchstat itself can compare two arms.
func TestBenchstat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invented.txt")
	if err := os.WriteFile(path, written(t, FormatBench, invented(t, "wall", record.StatusFailed)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "benchstat", "-row", "/workload", "-col", "/arm", "-filter", "/arm:(docker OR iptables_as_study)", path).CombinedOutput()
	if err != nil {
		t.Fatalf("run benchstat: %v\n%s", err, out)
	}
	for _, want := range []string{"docker", "iptables_as_study", "latency_mean-s", "rate-per-s", "p=0.002 n=6"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("benchstat lacks %q:\n%s", want, out)
		}
	}
}

func TestUnknownFormat(t *testing.T) {
	if err := Write(&bytes.Buffer{}, "yaml", invented(t, "wall", record.StatusOK)); err == nil || !strings.Contains(err.Error(), `unknown format "yaml"`) {
		t.Errorf("error %v", err)
	}
}
