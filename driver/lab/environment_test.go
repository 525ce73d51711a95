package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// imageSets are two sets of images. The second has filters of other projects, and a
// package that drifted.
func imageSets() (set, older images.Set) {
	of := func(name, sum string) images.Artifact { return images.Artifact{Name: name, SHA256: sum} }
	set = images.Set{KernelRelease: "6.12.117-amd64", Kernel: of("vmlinuz", "a1"), Modules: of("modules.squashfs", "a2"), Initramfs: of("initramfs.cpio", "a3"),
		Root: of("root.squashfs", "a4"), Endpoint: of("endpoint.squashfs", "a5"), EndpointArchive: of("endpoint.tar", "a6"), EndpointDigest: "d1",
		Sealed: []images.Artifact{of("sealed-modules.cpio", "s1"), of("sealed-root.cpio", "s2")}}
	older, peers := set, of("peers.squashfs", "e1")
	older.Drift = []images.Drift{{Package: "nftables", Locked: "1.1.3-1", Used: "1.1.3-2"}}
	older.External, older.ExternalDigest = &peers, "p1"
	return set, older
}

func existing(cfg Config, set images.Set, borrow bool, addrs ...string) *machines {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	p := &machines{cfg: cfg, set: set}
	for i, addr := range addrs {
		p.nodes = append(p.nodes, &machineNode{Node: datapath.NodeAt(i + 1), borrow: borrow,
			machine: plan.Machine{Host: addr, Port: 22, Data: "eth1"}, Run: &remote.Run{Computer: &remote.Computer{HostKey: key}}})
	}
	return p
}

// TestEnvironmentsStayAsTheyWere: the environment of every provider is, byte by byte, as
// env.json of earlier runs has it.
func TestEnvironmentsStayAsTheyWere(t *testing.T) {
	set, older := imageSets()
	facts := map[string]map[string]string{"node2": {"kernel.release": "6.12.117-amd64", "cpu.model": "A <B> & C"}, "node1": {"kernel.release": "6.12.117-amd64"}}
	versions := vm.Version{Libvirt: "9.0.0", QEMU: "10.0.2", Private: true}
	accel := vm.Accel{Name: "tcg", How: "asked for by the experiment"}
	machines := map[string]Machine{}
	for node := range facts {
		machines[node] = Machine{CommandLine: []string{"/usr/bin/qemu-system-x86_64", "-name", "guest=hookbed-r1-" + node, "-append", "console=ttyS0 a=<b>"}}
	}
	peers := Config{External: true}
	plain := Config{Lab: plan.Lab{VCPUs: 2, Memory: 2048, Queues: 4}}
	card := Config{Lab: plan.Lab{VCPUs: 2, Memory: 2048, Queues: 1, NIC: plan.NIC{Model: "e1000e", MTU: 1400}}}
	others := (&virtual{cfg: card, set: older, accel: accel}).environment(versions, machines, facts)
	others.Hypervisors = map[string]map[string]string{}
	for node := range facts {
		others.Hypervisors[node] = map[string]string{"uri": "qemu+ssh://root@192.0.2.21/system", "libvirt": "9.0.0", "cpu": "A"}
	}
	sealed := &Sealer{cfg: Config{Lab: plan.Lab{Kernel: "6.12", Memory: 1024}}, guest: []byte("8"), sets: map[string]images.Set{"6.12": set}}
	old := older
	old.KernelRelease, old.Kernel.SHA256 = "6.1.9-amd64", "b1"
	compared := &Sealer{cfg: Config{Lab: plan.Lab{Memory: 1024}, Kernels: []string{"6.1", "6.12"}}, guest: []byte("8"), sets: map[string]images.Set{"6.12": set, "6.1": old}}
	for name, env := range map[string]Environment{
		"local":               (&local{set: set}).environment(facts),
		"local-peers":         (&local{set: older}).environment(facts),
		"ssh":                 existing(Config{}, set, false, "192.0.2.11", "192.0.2.12").environment(facts),
		"ssh-peers":           existing(peers, older, true, "192.0.2.11", "192.0.2.12").environment(facts),
		"libvirt":             (&virtual{cfg: plain, set: set, accel: accel}).environment(versions, machines, facts),
		"libvirt-hypervisors": others,
		"sealed":              sealed.environment(versions),
		"sealed-kernels":      compared.environment(versions),
	} {
		got, err := json.MarshalIndent(env.Entries(), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", "env", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if string(got)+"\n" != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestEntriesAreAsTagged: Entries reads the tags as encoding/json does.
func TestEntriesAreAsTagged(t *testing.T) {
	set, _ := imageSets()
	env := (&local{set: set}).environment(map[string]map[string]string{"node1": {"a": "b"}})
	env.Hypervisors = map[string]map[string]string{}
	var byTag, byEntries map[string]json.RawMessage
	for from, to := range map[any]*map[string]json.RawMessage{&env: &byTag, nil: &byEntries} {
		if from == nil {
			from = env.Entries()
		}
		data, err := json.Marshal(from)
		if err == nil {
			err = json.Unmarshal(data, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(byTag) != len(byEntries) {
		t.Errorf("by tags %v, by Entries %v", byTag, byEntries)
	}
	for key, want := range byTag {
		if got := byEntries[key]; string(got) != string(want) {
			t.Errorf("%s is %s, by its tag %s", key, got, want)
		}
	}
}

// TestEnvironmentHasEveryImage: no image of a machine hides another one's digest, though the files of
// several have one name.
func TestEnvironmentHasEveryImage(t *testing.T) {
	_, set := imageSets()
	http, etcd := images.Artifact{Name: "http.squashfs", SHA256: "h1"}, images.Artifact{Name: "peers.squashfs", SHA256: "t1"}
	set.HTTP, set.Etcd = &http, &etcd
	p := &virtual{cfg: Config{Cilium: plan.Image{Source: "cilium.tar"}}, set: set}
	p.agent.image = images.Container{ID: "sha256:1", Packed: images.Artifact{Name: "peers.squashfs", SHA256: "c1"}}
	digests := map[string]bool{}
	for _, sum := range p.environment(vm.Version{}, nil, nil).ImageSHA256.One {
		digests[sum] = true
	}
	for _, a := range p.images() {
		if !digests[a.SHA256] {
			t.Errorf("the environment lacks %s of %s", a.SHA256, a.Name)
		}
	}
}
