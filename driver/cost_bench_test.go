package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"hookbed/analysis/stat"
	"hookbed/driver/cost"
)

// benchDriver runs the driver for a benchmark and returns its standard output.
func benchDriver(b *testing.B, args ...string) []byte {
	b.Helper()
	cmd := exec.Command(filepath.Join(binaries, "driver"), args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+b.TempDir())
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		b.Fatalf("driver %v: %v\n%s", args, err, talk.Bytes())
	}
	return out.Bytes()
}

// BenchmarkCost times the hashes at 10 000 policies and at 1 next to those of
// other projects, and reports ratios within one run. The names say what over
// what.
func BenchmarkCost(b *testing.B) {
	metrics := map[string]string{
		"tc-hash: 10000 policies over 1":                           "tc-hash-10000/1",
		"xdp-hash: 10000 policies over 1":                          "xdp-hash-10000/1",
		"xdp-hash over xdp-filter at 10000 policies":               "xdp-hash/xdp-filter",
		"xdp-hash over xdp-filter-all at 10000 policies":           "xdp-hash/xdp-filter-all",
		"xdp-hash over bpfilter-set-xdp at 10000 policies":         "xdp-hash/bpfilter-set-xdp",
		"tc-hash over bpfilter-set at 10000 policies":              "tc-hash/bpfilter-set",
		"tc-hash-policy-first over bpfilter-set at 10000 policies": "tc-hash-policy-first/bpfilter-set",
	}
	for range b.N {
		out := benchDriver(b, "cost", "--json", "--policies", "1,10000", "--rounds", "100", "--out", filepath.Join(b.TempDir(), "cost"),
			"--programs", "tc-hash,tc-hash-policy-first,xdp-hash,xdp-filter,xdp-filter-all,bpfilter-set,bpfilter-set-xdp")
		found := 0
		for _, line := range bytes.Split(out, []byte("\n")) {
			var v struct{ Cost struct{ Ratios []cost.Ratio } }
			if len(line) > 0 && json.Unmarshal(line, &v) != nil {
				b.Fatalf("not JSON: %s", line)
			}
			for _, r := range v.Cost.Ratios {
				if name, ok := metrics[r.What]; ok {
					b.ReportMetric(r.Ratio.Estimate, name)
					b.Logf("%-50s %.3f (%.3f to %.3f)", r.What, r.Ratio.Estimate, r.Ratio.Low, r.Ratio.High)
					found++
				}
			}
		}
		if found != len(metrics) {
			b.Errorf("%d ratios of %d: %s", found, len(metrics), out)
		}
	}
}

const loadExperiment = `schema = 1
name = "load"
seed = 7
[lab]
provider = "local"
[measure]
blocks = 1
trials = 15
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10000]
[[arm]]
name = "iptables"
fabric = "bridge"
filter = "iptables-legacy"
[[arm]]
name = "tc-hash"
fabric = "bridge"
filter = "tc-hash"
[[arm]]
name = "tc-hash-prealloc"
fabric = "bridge"
filter = "tc-hash"
prealloc = "on"
`

// BenchmarkLoad loads the same 10 000 policies by iptables-restore and into
// tc-hash, whose entries are allocated each as it comes or all before, and reports
// how many times longer the former takes, by the mean of the faster half of each
// arm's trials. Both start from text.
func BenchmarkLoad(b *testing.B) {
	for range b.N {
		dir := b.TempDir()
		file, run := filepath.Join(dir, "load.toml"), filepath.Join(dir, "run")
		if err := os.WriteFile(file, []byte(loadExperiment), 0o600); err != nil {
			b.Fatal(err)
		}
		benchDriver(b, "run", file, "--out", run)
		list := loadSecondsOf(b, run, "iptables")
		for _, arm := range []string{"tc-hash", "tc-hash-prealloc"} {
			hash := loadSecondsOf(b, run, arm)
			r, ok := stat.Bootstrap{}.FasterHalfRatio(list, hash, false, 0.95)
			if !ok {
				b.Fatalf("too few trials: %d and %d", len(list), len(hash))
			}
			b.ReportMetric(r.Estimate, "iptables-restore/"+arm)
			b.Logf("iptables-restore of 10 000 policies over loading them into %s: %.2f (%.2f to %.2f); %.4f s and %.4f s", arm, r.Estimate, r.Low, r.High, stat.FasterHalf(list, false), stat.FasterHalf(hash, false))
		}
	}
}

// loadSecondsOf reads how long an arm's policies took to load in each trial.
func loadSecondsOf(b *testing.B, run, arm string) []float64 {
	b.Helper()
	f, err := os.Open(filepath.Join(run, "rows.csv"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		b.Fatal(err)
	}
	column := func(name string) int { return slices.Index(rows[0], name) }
	var out []float64
	for _, r := range rows[1:] {
		if r[column("f.arm")] != arm || r[column("metric")] != "load_seconds" {
			continue
		}
		v, err := strconv.ParseFloat(r[column("value")], 64)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		b.Fatalf("no load_seconds of %s in %s", arm, run)
	}
	return out
}
