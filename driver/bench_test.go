//go:build vm

package main

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// metricsOf collects every value of a metric in a run's rows, of one arm or, ""
// being none, of all.
func metricsOf(b *testing.B, dir, metric, arm string) []float64 {
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
	ofArm := slices.Index(rows[0], "f.arm")
	for _, r := range rows {
		if r[8] != metric || arm != "" && r[ofArm] != arm {
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

// runOf runs an experiment and returns its run directory.
func runOf(b *testing.B, experiment string, args ...string) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "run")
	benchDriver(b, append([]string{"run", experiment, "--out", dir}, args...)...)
	return dir
}

// paths are what transactions pass without any policy: the shortest there is,
// Docker's bridge, and the redirects of Cilium's design.
const paths = `schema = 1
name = "paths"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 15
duration = "1s"
warmup = "0s"
client_cpu = 0
server_cpu = 0
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "veth"
fabric = "veth"
filter = "none"
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "cilium-like-peer"
datapath = "cilium-like"
delivery = "peer"
`

// BenchmarkPaths compares request/response rates at N = 0 within one run, trials
// interleaved, by the mean of the faster half of each arm's trials.
func BenchmarkPaths(b *testing.B) {
	for range b.N {
		experiment := filepath.Join(b.TempDir(), "paths.toml")
		if err := os.WriteFile(experiment, []byte(paths), 0o600); err != nil {
			b.Fatal(err)
		}
		dir := runOf(b, experiment)
		rate := func(arm string) float64 {
			x := metricsOf(b, dir, "rate", arm)
			slices.Sort(x)
			return mean(x[len(x)/2:])
		}
		b.ReportMetric(rate("cilium-like")/rate("docker"), "cilium-like/docker")
		b.ReportMetric(rate("cilium-like")/rate("veth"), "cilium-like/veth")
		b.ReportMetric(rate("cilium-like-peer")/rate("docker"), "cilium-like-peer/docker")
		b.ReportMetric(rate("cilium-like-peer")/rate("veth"), "cilium-like-peer/veth")
	}
}

// BenchmarkDriverOverhead runs a local experiment of one-second trials and
// reports, in one run, what the driver adds: seconds in addition to the
// measured ones, per trial (proof included) and per setup, as ratios to a measured second.
func BenchmarkDriverOverhead(b *testing.B) {
	for range b.N {
		experiment, err := filepath.Abs("../experiments/local.toml")
		if err != nil {
			b.Fatal(err)
		}
		dir := runOf(b, experiment, "--only", "workload=TCP_RR")
		b.ReportMetric(mean(metricsOf(b, dir, "overhead_seconds", "")), "trial-overhead/measured")
		b.ReportMetric(mean(metricsOf(b, dir, "apply_seconds", ""))+mean(metricsOf(b, dir, "endpoints_seconds", "")), "setup/measured")
	}
}
