//go:build vm

package main

import (
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// metricsOf collects every value of a metric in a run's rows.
func metricsOf(b *testing.B, dir, metric string) []float64 {
	b.Helper()
	f, err := os.Open(filepath.Join(dir, "rows.csv"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		b.Fatal(err)
	}
	var out []float64
	for _, r := range rows {
		if r[8] != metric {
			continue
		}
		v, err := strconv.ParseFloat(r[10], 64)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		b.Fatalf("no %s in %s", metric, dir)
	}
	return out
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// BenchmarkDriverOverhead runs a local experiment of one-second trials and
// reports, in one run, what the driver adds: seconds beside the measured ones
// per trial (proof included) and per setup, as ratios to a measured second.
func BenchmarkDriverOverhead(b *testing.B) {
	for range b.N {
		dir := filepath.Join(b.TempDir(), "run")
		experiment, err := filepath.Abs("../experiments/local.toml")
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(binaries, "driver"), "run", experiment, "--out", dir, "--only", "workload=TCP_RR")
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+b.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		b.ReportMetric(mean(metricsOf(b, dir, "overhead_seconds")), "trial-overhead/measured")
		b.ReportMetric(mean(metricsOf(b, dir, "apply_seconds"))+mean(metricsOf(b, dir, "endpoints_seconds")), "setup/measured")
	}
}
