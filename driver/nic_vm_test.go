//go:build vm

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/record"
)

const nicExperiment = `schema = 1
name = "nic"
seed = 3
[lab]
provider = "libvirt"
endpoint = "netns"
`

const nicMatrix = `[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR"]
policies = [5]
NICS
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "xdp"
datapath = "xdp"
attach = "generic"
`

// TestKernelsOneNIC: a card that is not the default is what the experiment says, in the
// guest's own words.
func TestKernelsOneNIC(t *testing.T) {
	r := newVMRig(t)
	before := machineState(t)
	lab := nicExperiment + "nic = \"vmxnet3\"\nmtu = 1400\noffloads = \"off\"\n" +
		strings.Replace(strings.Replace(nicMatrix, "NICS\n", "", 1), "multi-host", "localhost", 1)
	if err := os.WriteFile(filepath.Join(r.dir, "nic.toml"), []byte(lab), 0o644); err != nil {
		t.Fatal(err)
	}
	r.run("up", "nic.toml")
	defer r.run("down", "--all")
	said := r.run("ssh", "node1", "--", "sh", "-c", "ethtool -i data0; cat /sys/class/net/data0/mtu; ethtool -k data0 | grep ': on'; ip -br address show data0")
	for _, want := range []string{"driver: vmxnet3\n", "\n1400\n", "198.18.1.11/24"} {
		if !strings.Contains(said, want) {
			t.Errorf("the guest's card lacks %q:\n%s", want, said)
		}
	}
	for _, off := range []string{"tcp-segmentation-offload: on", "generic-segmentation-offload: on", "generic-receive-offload: on", "large-receive-offload: on"} {
		if strings.Contains(said, off) {
			t.Errorf("the guest has %s", off)
		}
	}
	r.run("down", "--all")
	r.expectSame(before)
}

// TestKernelsNIC compares cards in one experiment: a boot each, rows and
// environment that tell them apart, and generic XDP where a card has no native.
func TestKernelsNIC(t *testing.T) {
	r := newVMRig(t)
	before := machineState(t)
	text := nicExperiment + "kernel = \"6.12-generic\"\n" +
		strings.Replace(nicMatrix, "NICS", `nics = [{ model = "virtio" }, { model = "e1000e" }, { model = "e1000e", offloads = "off" }]`, 1)
	if err := os.WriteFile(filepath.Join(r.dir, "nics.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(r.run("run", "nics.toml", "--out", "run"))
	f, err := os.Open(filepath.Join(r.dir, "run/rows.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := record.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	ok, blocks := map[string]bool{}, map[string]int{}
	for _, row := range rows {
		nic := row.Factors["nic"]
		if row.Status != record.StatusOK {
			t.Errorf("%s with %s is %s: %s", row.Factors["arm"], nic, row.Status, row.Reason)
		}
		ok[nic+" "+row.Factors["arm"]] = true
		if b := blocks[nic]; b != 0 && b != row.Block {
			t.Errorf("%s is in blocks %d and %d", nic, b, row.Block)
		}
		blocks[nic] = row.Block
	}
	if len(ok) != 6 || len(blocks) != 3 {
		t.Errorf("cells %v in blocks %v, want two arms with each of three cards", ok, blocks)
	}
	data, err := os.ReadFile(filepath.Join(r.dir, "run/env.json"))
	if err != nil {
		t.Fatal(err)
	}
	var env struct {
		Nodes map[string]map[string]map[string]string `json:"nodes"`
	}
	if err := json.Unmarshal(data, &env); err != nil {
		t.Fatal(err)
	}
	for nic, driver := range map[string]string{"virtio": "virtio_net", "e1000e": "e1000e", "e1000e-nooffloads": "e1000e"} {
		if got := env.Nodes[nic]["node1"]["link.data0.driver"]; got != driver {
			t.Errorf("env.json says that the driver of %s is %q", nic, got)
		}
	}
	if on := env.Nodes["e1000e-nooffloads"]["node2"]["link.data0.offloads"]; strings.Contains(on, "tx-tcp-segmentation") || strings.Contains(on, "rx-gro ") {
		t.Errorf("offloads of the card without: %s", on)
	}
	r.run("report", "run")
	r.expectSame(before)
}
