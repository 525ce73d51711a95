// Package runstest writes run directories of invented numbers for tests of what reads
// them. Equal input gives equal files.
package runstest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

// Synthetic makes run directories of invented numbers. They resemble nothing
// that was measured; they only have to have every shape a report must cope with.
type Synthetic struct {
	Seed      uint64 // of the numbers
	Scenarios []string
	Workloads []string
	Policies  []int
	Clients   []int // none: no such factor
	Streams   []int // of TCP_STREAM; none: no such factor
	Arms      []string
	Kernels   []string // compared; nil is one
	Blocks    int
	Trials    int // a block
	// Spoil may change the rows of a trial before they are written.
	Spoil     func(trial []record.Row, factors map[string]string) []record.Row
	Env       map[string]any // env.json; nil: no such file
	Clock     string         // "" is wall
	Estimator string         // of the plan; "" = none is fixed
	Stop      *runs.Stop
}

type syntheticCell struct {
	id      string
	factors map[string]string
}

func (s Synthetic) cells() []syntheticCell {
	if len(s.Kernels) == 0 {
		return s.cellsOn("invented", 0)
	}
	var out []syntheticCell
	for _, k := range s.Kernels {
		out = append(out, s.cellsOn(k, len(out))...)
	}
	return out
}

// cellsOn are the cells of one kernel; before is how many there are already.
func (s Synthetic) cellsOn(kernel string, before int) []syntheticCell {
	var out []syntheticCell
	for _, sc := range s.Scenarios {
		for _, w := range s.Workloads {
			for _, arm := range s.Arms {
				for _, n := range s.Policies {
					if n > 0 && (arm == "docker" || arm == "xdp-pass" || strings.HasPrefix(arm, "plain-")) {
						continue
					}
					f := map[string]string{"scenario": sc, "workload": w, "arm": arm, "policies": strconv.Itoa(n),
						"datapath": strings.TrimSuffix(arm, "-again"), "provider": "libvirt", "clock": cmp.Or(s.Clock, "wall"), "kernel": kernel}
					if spin, ok := strings.CutPrefix(arm, "control-"); ok {
						f["datapath"], f["spin"], f["duration"] = "control", spin, "2s"
					}
					each := eachLevel([]map[string]string{f}, "clients", s.Clients)
					if w == "TCP_STREAM" {
						each = eachLevel(each, "streams", s.Streams)
					}
					for _, f := range each {
						out = append(out, syntheticCell{fmt.Sprintf("%012x", before+len(out)+1), f})
					}
				}
			}
		}
	}
	return out
}

// eachLevel is each cell with every level of one factor more, if it has levels.
func eachLevel(cells []map[string]string, factor string, levels []int) (out []map[string]string) {
	if len(levels) == 0 {
		return cells
	}
	for _, f := range cells {
		for _, l := range levels {
			f := maps.Clone(f)
			f[factor] = strconv.Itoa(l)
			out = append(out, f)
		}
	}
	return out
}

// pathCost is an invented cost of the arm's path and of each policy, in seconds.
func pathCost(f map[string]string) (fixed, each float64) {
	fixed = map[string]float64{"docker": 30e-6, "iptables": 32e-6, "iptables-established": 32.5e-6, "cilium-like": 25e-6, "xdp": 27e-6, "xdp-again": 27e-6, "control-0": 30e-6, "control-500": 31e-6, "xdp-pass": 26e-6}[f["arm"]]
	if f["arm"] == "iptables" {
		each = 20e-9
		if f["clock"] == runs.ClockVirtual {
			fixed = 29e-6 // crosses docker's 30 at N = 50
		}
	}
	if f["scenario"] == "multi-host" {
		fixed *= 2
		each /= 4
		if f["arm"] == "cilium-like" {
			fixed *= 1.15
		}
	}
	return fixed, each
}

func (s Synthetic) measure(rng *rand.Rand, f map[string]string) []record.Row {
	fixed, each := pathCost(f)
	n, _ := strconv.Atoi(f["policies"])
	t := (fixed + each*float64(n)) * math.Exp(rng.NormFloat64()*0.015)
	m := func(metric, unit string, v float64) record.Row {
		return record.Row{Status: record.StatusOK, Metric: metric, Unit: unit, Value: Round(v)}
	}
	rows := []record.Row{m("cpu.client_node", "1", 0.9+0.05*rng.Float64()), m("cpu.server_node", "1", 1.1+0.05*rng.Float64()),
		m("policies_realised", "1", float64(n)), m("probes_allowed", "1", 1), m("apply_seconds", "s", 0.1+each*float64(n)*100)}
	if n > 0 {
		rows = append(rows, m("probes_denied", "1", 3), m("hook_packets", "1", math.Round(1e5/t/1e4)))
	}
	if f["clock"] == runs.ClockVirtual { // a transaction is two packets, an instruction 1 ns
		rows = append(rows, m("instructions_per_transaction", "1", (fixed+each*float64(n))*1e9*(1+rng.NormFloat64()*1e-5)))
	}
	if spin := f["spin"]; spin != "" {
		known, _ := strconv.ParseFloat(spin, 64)
		rows = append(rows, m("known_added_instructions", "1", known), m("hook_packets", "1", 2*2/t))
	}
	switch f["workload"] {
	case "TCP_STREAM":
		return append(rows, m("throughput", "bit/s", 2.4e5/t), m("retransmits", "1", float64(rng.IntN(4))))
	case "TCP_CRR":
		t *= 4
	}
	return append(rows, m("rate", "1/s", 1/t), m("latency_mean", "s", t), m("latency_p50", "s", t*0.97), m("latency_p99", "s", t*1.9))
}

// Round keeps eight digits, so that the last bit of a platform's arithmetic
// does not show in files under testdata.
func Round(v float64) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 8, 64), 64)
	return r
}

// Write makes the run directory.
func (s Synthetic) Write(t testing.TB, dir string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	cells := s.cells()
	factors := []string{"scenario", "workload", "arm", "policies", "datapath", "provider", "clock", "kernel", "seed", "spin", "duration"}
	if s.Clock != runs.ClockVirtual {
		factors = factors[:8]
	}
	if len(s.Clients) > 0 {
		factors = append(factors, runs.FactorClients)
	}
	if len(s.Streams) > 0 {
		factors = append(factors, runs.FactorStreams)
	}
	data, order := record.EncodeHeader(factors), 0
	var trials []map[string]any
	for block := 1; block <= s.Blocks; block++ {
		for trial := 1; trial <= s.Trials; trial++ {
			for _, i := range rng.Perm(len(cells)) {
				c := cells[i]
				order++
				trials = append(trials, map[string]any{"order": order, "block": block, "trial": trial, "cell": c.id})
				rows := s.measure(rng, c.factors)
				for i := range rows {
					rows[i].Run, rows[i].Cell, rows[i].Block, rows[i].Trial, rows[i].Order = "synthetic", c.id, block, trial, order
					rows[i].Factors = c.factors
					if s.Clock == runs.ClockVirtual {
						rows[i].Factors = maps.Clone(c.factors)
						rows[i].Factors["seed"] = strconv.Itoa(block)
					}
				}
				if s.Spoil != nil {
					rows = s.Spoil(rows, c.factors)
				}
				lines, err := record.Encode(factors, rows)
				if err != nil {
					t.Fatal(err)
				}
				data = append(data, lines...)
			}
		}
	}
	WriteFile(t, filepath.Join(dir, runs.RowsFile), data)
	writeJSON(t, filepath.Join(dir, runs.PlanFile), s.plan(cells, trials))
	if s.Env != nil {
		writeJSON(t, filepath.Join(dir, runs.EnvFile), s.Env)
	}
}

func (s Synthetic) plan(cells []syntheticCell, trials []map[string]any) map[string]any {
	var arms, planned []map[string]any
	for _, a := range s.Arms {
		arms = append(arms, map[string]any{"Name": a, "Datapath": a})
	}
	for _, c := range cells {
		planned = append(planned, map[string]any{"id": c.id, "factors": c.factors})
	}
	spec := map[string]any{
		"Name": "synthetic", "Description": "Invented numbers, made by a test from a seed. Nothing was measured.",
		"Arms": arms, "Scenarios": s.Scenarios, "Workloads": s.Workloads, "Lab": map[string]any{"Provider": "libvirt", "Accel": "auto"}}
	if s.Estimator != "" || s.Stop != nil {
		spec["measure"] = map[string]any{"estimator": s.Estimator, "stop": s.Stop}
	}
	return map[string]any{"schema": 1, "cells": planned, "trials": trials, "spec": spec}
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	WriteFile(t, path, append(data, '\n'))
}

// WriteFile writes a file, and makes its directory if there is none.
func WriteFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Spoilt replaces a trial by one row without a number.
func Spoilt(rows []record.Row, status, reason string) []record.Row {
	r := rows[0]
	r.Status, r.Reason, r.Metric, r.Unit, r.Value = status, reason, "", "", 0
	return []record.Row{r}
}

// voided keeps the numbers of a trial but forbids their use.
func voided(rows []record.Row, reason string) []record.Row {
	for i := range rows {
		rows[i].Status, rows[i].Reason = record.StatusVoid, reason
	}
	return rows
}

// Small is the run behind the goldens: two trials, and every kind of trouble.
func Small() Synthetic {
	return Synthetic{
		Seed: 1, Scenarios: []string{"localhost", "multi-host"}, Workloads: []string{"TCP_STREAM", "TCP_RR"}, Policies: []int{0, 100},
		Arms: []string{"docker", "iptables", "cilium-like", "xdp"}, Blocks: 1, Trials: 2,
		Env: map[string]any{"started": "2001-02-03T04:05:06Z", "accel": map[string]any{"used": "tcg", "why": "the probe guest <did> not boot | with kvm"},
			"nodes": map[string]any{"node1": map[string]any{"kernel": "invented-1", "features": []string{"gro", "tso"}}}},
		Spoil: func(rows []record.Row, f map[string]string) []record.Row {
			switch {
			case f["arm"] == "xdp" && f["scenario"] == "multi-host":
				return Spoilt(rows, record.StatusUnsupported, "NIC has no native XDP")
			case f["arm"] == "xdp" && f["policies"] == "100":
				return Spoilt(rows, record.StatusFailed, fmt.Sprintf("prove enforcement: probe %d \"forbidden|source\" got through", rows[0].Order))
			case f["arm"] == "cilium-like" && f["workload"] == "TCP_RR" && rows[0].Trial == 2:
				return voided(rows, "BPF JIT is \"0\", want 1")
			}
			return rows
		},
	}
}

// Study is a run of the study's size, for invariants and for looking at.
func Study() Synthetic {
	return Synthetic{
		Seed: 2, Scenarios: []string{"localhost", "multi-host"}, Workloads: []string{"TCP_STREAM", "TCP_RR", "TCP_CRR"},
		Policies: []int{0, 1, 5, 10, 25, 50, 100, 200, 1000},
		Arms:     []string{"docker", "iptables", "iptables-established", "cilium-like", "xdp", "xdp-pass"}, Blocks: 2, Trials: 5,
		Env: map[string]any{"accel": "kvm"},
		Spoil: func(rows []record.Row, f map[string]string) []record.Row {
			if f["arm"] == "xdp" && f["policies"] == "50" {
				return Spoilt(rows, record.StatusFailed, "map is full")
			}
			return rows
		},
	}
}
