//go:build vm

package main

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

const swarmExperiment = `schema = 1
name = "swarm"
seed = 3
[lab]
provider = "libvirt"
endpoint = "docker"
` + oneShortTrial + `[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "docker"
datapath = "docker"
overlay = "docker-overlay"
[[arm]]
name = "iptables"
datapath = "iptables"
overlay = "docker-overlay"
`

// TestVMDockerOverlay: the overlay network of a Docker Swarm of two VMs carries
// the traffic of containers, with policies and without, is proven on the wire, and
// is gone with the machines.
func TestVMDockerOverlay(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	if err := os.WriteFile(filepath.Join(r.dir, "swarm.toml"), []byte(swarmExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(r.run("run", "swarm.toml", "--out", "run")) // fails unless every trial is ok
	r.expectTrials("run/rows.csv", 2)
	got := metricsByArm(t, filepath.Join(r.dir, "run/rows.csv"))
	for arm, denied := range map[string]float64{"docker": 0, "iptables": 3} {
		m := got[arm]
		if m["overlay_packets"] == 0 || m["overlay_packets_back"] == 0 || m["probes_denied"] != denied || m["probes_allowed"] == 0 {
			t.Errorf("%s: %v", arm, m)
		}
		if m["outer_checksum"]+m["outer_no_checksum"] < m["probes_allowed"]+m["probes_denied"] {
			t.Errorf("%s: fewer outer packets than probes: %v", arm, m)
		}
	}
	r.run("report", "run")
	r.expectSame(before)
}

// metricsByArm reads the values of rows.csv, of one trial an arm.
func metricsByArm(t *testing.T, path string) map[string]map[string]float64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) == 0 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	at := map[string]int{}
	for i, name := range rows[0] {
		at[name] = i
	}
	out := map[string]map[string]float64{}
	for _, row := range rows[1:] {
		arm := row[at["f.arm"]]
		if out[arm] == nil {
			out[arm] = map[string]float64{}
		}
		if out[arm][row[at["metric"]]], err = strconv.ParseFloat(row[at["value"]], 64); err != nil {
			t.Fatalf("%v: %v", row, err)
		}
	}
	return out
}
