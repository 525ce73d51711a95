package runstest

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

// Cross makes a run of invented numbers over fabric x filter, whose parts are
// known: a fabric's cost, a filter's, and each policy's.
type Cross struct {
	Arms     []CrossArm
	Policies []int
	Blocks   int
	Trials   int     // a block
	Spread   float64 // relative, of a trial
	Clock    string
	Halves   bool // the plan asks for the faster half
	Kernels  []string
	Stream   bool // throughput, which is better the higher, in the place of latency
}

// CrossArm is an arm of a Cross.
type CrossArm struct {
	Name, Fabric, Filter string
	Options              map[string]string
	Cost                 func(n int) float64 // seconds a transaction
	Status               string              // of every row; "" is ok
}

// Write makes the run in a directory that lasts as long as the test, and returns it.
func (c Cross) Write(t *testing.T) string {
	t.Helper()
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(11, 11))
	factors := []string{"scenario", "workload", "arm", "policies", "datapath", "fabric", "filter", "clock", "kernel", "seed", "policy", "state", "placement", "enforce", "delivery", "attach", "where", "family", "overlay", "udpcsum", "prealloc"}
	data, order := record.EncodeHeader(factors), 0
	for block := 1; block <= c.Blocks; block++ {
		boot := math.Exp(rng.NormFloat64() * 0.1) // what a boot changes; cancels in pairs
		if c.Blocks < runs.MinBlocks {
			boot = 1
		}
		for trial := 1; trial <= c.Trials; trial++ {
			for _, kernel := range c.Kernels {
				for _, a := range c.Arms {
					for _, n := range c.Policies {
						if f, _ := catalog.Schema1().Filter(a.Filter); n > 0 && !f.Policies {
							continue
						}
						order++
						f := map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": a.Name, "policies": strconv.Itoa(n), "datapath": a.Fabric + "+" + a.Filter,
							"fabric": a.Fabric, "filter": a.Filter, "clock": c.Clock, "kernel": kernel, "family": "ipv4"}
						maps.Copy(f, a.Options)
						if c.Clock == runs.ClockVirtual {
							f["seed"] = strconv.Itoa(block)
						}
						v := a.Cost(n) * boot * math.Exp(rng.NormFloat64()*c.Spread)
						if kernel == "slow-lists" && strings.Contains(a.Filter, "linear") {
							v *= 2
						}
						row := record.Row{Run: "cross", Cell: fmt.Sprintf("%s-%s-%d", kernel, a.Name, n), Block: block, Trial: trial, Order: order, Status: record.StatusOK,
							Metric: "latency_mean", Unit: "s", Value: Round(v), Factors: f}
						if c.Stream {
							f["workload"], row.Metric, row.Unit, row.Value = "TCP_STREAM", "throughput", "bit/s", Round(2.4e5/v)
						}
						if a.Status != "" {
							row.Status, row.Reason = a.Status, "invented"
						}
						lines, err := record.Encode(factors, []record.Row{row})
						if err != nil {
							t.Fatal(err)
						}
						data = append(data, lines...)
					}
				}
			}
		}
	}
	WriteFile(t, filepath.Join(dir, runs.RowsFile), data)
	estimator := runs.EstimatorMedian
	if c.Halves {
		estimator = runs.EstimatorFasterHalf
	}
	writeJSON(t, filepath.Join(dir, runs.PlanFile), map[string]any{"spec": map[string]any{"Name": "cross", "Description": "Invented numbers. Nothing was measured.",
		"Measure": map[string]any{"Estimator": estimator}}})
	return dir
}

// Each is a cost of n policies in seconds: a fixed part and one of each policy, both in
// microseconds.
func Each(fixed, policy float64) func(int) float64 {
	return func(n int) float64 { return (fixed + policy*float64(n)) * 1e-6 }
}

// Structural is a cross in which structure makes 90 % of the way, path 10 % and
// mechanism nothing, in either order: lists cost 100 µs at N = 1000, hashes
// 100/q on the bridge, and those on bpf 100/Q, with ln q = 0.9 ln Q, Q = 5.
func Structural() Cross {
	const whole = 5.0
	hash, short := 100/math.Pow(whole, 0.9), 100/whole
	list := Each(hash, (100-hash)/1000)
	study, stateless := map[string]string{"state": "as-study", "placement": "input"}, map[string]string{"state": "stateless", "placement": "input"}
	tc, redirect := map[string]string{"enforce": "all", "attach": "clsact"}, map[string]string{"enforce": "all", "attach": "clsact", "delivery": "redirect"}
	xdp := map[string]string{"attach": "native", "where": "edge"}
	return Cross{Kernels: []string{"one"}, Clock: runs.ClockWall, Blocks: 1, Trials: 8, Spread: 0.01, Halves: true, Policies: []int{0, 100, 1000}, Arms: []CrossArm{
		{"plain", "bridge", "none", nil, Each(hash*0.99, 0), ""},
		{"routed", "routed", "none", nil, Each(hash*0.95, 0), ""},
		{"bpf-pass", "bpf", "tc-pass", redirect, Each(short*0.98, 0), ""},
		{"tc-pass", "bridge", "tc-pass", tc, Each(hash*0.995, 0), ""},
		{"legacy", "bridge", "iptables-legacy", study, list, ""},
		{"legacy-established", "bridge", "iptables-legacy", map[string]string{"state": "established-first", "placement": "input"}, Each(hash, 0), ""},
		{"legacy-stateless", "bridge", "iptables-legacy", stateless, Each(hash*0.9, (100-hash)/1000), ""},
		{"nft-set", "bridge", "nft-set", study, Each(hash, 0), ""},
		{"nft-set-stateless", "bridge", "nft-set", stateless, Each(hash*0.9, 0), ""},
		{"ipset", "bridge", "ipset", study, Each(hash, 0), ""},
		{"nft-linear", "bridge", "nft-linear", study, Each(hash, 1.2*(100-hash)/1000), ""},
		{"tc-linear", "bridge", "tc-linear", tc, list, ""},
		{"tc-hash", "bridge", "tc-hash", tc, Each(hash, 0), ""},
		{"xdp-hash", "bridge", "xdp-hash", xdp, Each(hash*0.8, 0), ""},
		{"xdp-linear", "bridge", "xdp-linear", xdp, Each(hash*0.8, (100-hash)/2000), ""},
		{"cilium-like", "bpf", "tc-hash", redirect, Each(short, 0), ""},
		{"cilium-like-peer", "bpf", "tc-hash", map[string]string{"enforce": "all", "attach": "clsact", "delivery": "peer"}, Each(short*0.9, 0), ""},
	}}
}

// Without is the run without some of its arms.
func (c Cross) Without(names ...string) Cross {
	c.Arms = slices.DeleteFunc(slices.Clone(c.Arms), func(a CrossArm) bool { return slices.Contains(names, a.Name) })
	return c
}

// Changed is the run with one of its arms changed.
func (c Cross) Changed(name string, change func(*CrossArm)) Cross {
	c.Arms = slices.Clone(c.Arms)
	for i := range c.Arms {
		if c.Arms[i].Name == name {
			change(&c.Arms[i])
		}
	}
	return c
}

// Tunnelled is a cross of two sides with and without an overlay whose costs are
// known: 3 µs a transaction on the bridge, 4 µs on bpf, and 10 ns more for each
// policy of the list.
func Tunnelled(clock string, blocks int, stream bool) Cross {
	study := map[string]string{"state": "as-study", "placement": "input"}
	tc := map[string]string{"enforce": "all", "attach": "clsact", "delivery": "redirect"}
	with := func(o map[string]string, sum string) map[string]string {
		out := maps.Clone(o)
		out["overlay"], out["udpcsum"] = "vxlan", sum
		return out
	}
	return Cross{Kernels: []string{"one"}, Clock: clock, Blocks: blocks, Trials: 1, Spread: 0.0005, Policies: []int{0, 100, 1000}, Stream: stream, Arms: []CrossArm{
		{"legacy", "bridge", "iptables-legacy", study, Each(50, 0.05), ""},
		{"legacy-vxlan", "bridge", "iptables-legacy", with(study, "on"), Each(53, 0.06), ""},
		{"cilium-like", "bpf", "tc-hash", tc, Each(40, 0), ""},
		{"cilium-like-vxlan", "bpf", "tc-hash", with(tc, "on"), Each(44, 0), ""},
		{"lonely-vxlan", "routed", "tc-hash", with(tc, "off"), Each(44, 0), ""},
	}}
}
