package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// node is a machine like a lab's.
func node() Machine {
	return Machine{
		Name: "hookbed-golden-node1", UUID: "5f3c1d2e-8a4b-4c6d-9e7f-0123456789ab", VCPUs: 2, MemoryMiB: 2048, Accel: TCG,
		Kernel: "/images/vmlinuz", Initramfs: "/images/initramfs.cpio", Cmdline: "console=ttyS0 quiet panic=1",
		Disks: []Disk{
			{Path: "/images/root.squashfs", ReadOnly: true, Serial: "root"},
			{Path: "/images/modules.squashfs", ReadOnly: true, Serial: "modules"},
			{Path: "/images/endpoint.squashfs", ReadOnly: true, Serial: "endpoint"},
			{Path: "/state/node1.config", ReadOnly: true, Serial: "config"},
		},
		NICs: []NIC{
			{Network: "hookbed-golden-mgmt", MAC: "52:54:00:12:00:0b", Queues: 1},
			{Network: "hookbed-golden-data", MAC: "52:54:00:12:01:0b", Queues: 4},
		},
		ConsoleLog: "/state/node1.console",
	}
}

func wantGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got = strings.TrimRight(got, "\n") + "\n"; got != string(want) {
		t.Errorf("differs from %s; got:\n%s", path, got)
	}
}

func TestMachineXML(t *testing.T) {
	for _, c := range []struct {
		golden, accel string
		models        []string
		user          User
	}{
		{"machine-tcg.xml", TCG, []string{"none", "dac"}, User{64055, 106}},
		{"machine-kvm.xml", KVM, []string{"apparmor", "dac"}, User{}},
	} {
		m := node()
		m.Accel = c.accel
		x, err := m.xml(c.models, c.user)
		if err != nil {
			t.Fatal(err)
		}
		text, err := x.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		wantGolden(t, c.golden, text)
	}
}

// TestVirtualMachineXML: no device answers in the host's time.
func TestVirtualMachineXML(t *testing.T) {
	m := node()
	m.VCPUs, m.Disks, m.NICs = 1, nil, nil
	m.Virtual = &Virtual{Seed: "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0", Results: "/state/block1.results"}
	x, err := m.xml([]string{"none", "dac"}, User{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "machine-virtual.xml", text)
	for what, spoil := range map[string]func(*Machine){
		"two CPUs": func(m *Machine) { m.VCPUs = 2 }, "a disk": func(m *Machine) { m.Disks = node().Disks[:1] },
		"a network card": func(m *Machine) { m.NICs = node().NICs[:1] }, "KVM": func(m *Machine) { m.Accel = KVM },
		"no seed": func(m *Machine) { m.Virtual = &Virtual{Results: "/r"} }, "no results": func(m *Machine) { m.Virtual = &Virtual{Seed: "s"} },
	} {
		bad := m
		spoil(&bad)
		if _, err := bad.xml(nil, User{}); err == nil {
			t.Errorf("a machine in virtual time with %s is let through", what)
		}
	}
}

func TestPluginOfAVirtualMachine(t *testing.T) {
	m := node()
	m.VCPUs, m.Disks, m.NICs = 1, nil, nil
	m.Virtual = &Virtual{Seed: "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0", Results: "/r", Plugin: &Plugin{Path: "/cache/a,b/trace.so", Out: "/state/stream", Args: []string{"setup=1", "trial=0"}}}
	x, err := m.xml(nil, User{})
	if err != nil {
		t.Fatal(err)
	}
	args := x.QEMUCommandline.Args
	if got, want := args[len(args)-1].Value, "file=/cache/a,,b/trace.so,out=/state/stream,setup=1,trial=0"; got != want || args[len(args)-2].Value != "-plugin" {
		t.Errorf("the last arguments are %q and %q, want -plugin and %q", args[len(args)-2].Value, got, want)
	}
	for _, p := range []Plugin{{Path: "/trace.so"}, {Out: "/state/stream"}} {
		m.Virtual.Plugin = &p
		if _, err := m.xml(nil, User{}); err == nil {
			t.Errorf("the plugin %+v is let through", p)
		}
	}
}

func TestWritableDiskIsNobodyElses(t *testing.T) {
	m := node()
	m.Disks[1].ReadOnly = false
	x, err := m.xml(nil, User{})
	if err != nil {
		t.Fatal(err)
	}
	if d := x.Devices.Disks[1]; d.ReadOnly != nil || d.Shareable != nil {
		t.Errorf("a writable disk is described as read-only or shareable: %+v", d)
	}
	if d := x.Devices.Disks[0]; d.ReadOnly == nil || d.Shareable == nil {
		t.Errorf("a read-only disk is not described as read-only and shareable: %+v", d)
	}
}

func TestMachineIsChecked(t *testing.T) {
	for want, spoil := range map[string]func(*Machine){
		"accelerator":      func(m *Machine) { m.Accel = "xen" },
		"0 virtual CPUs":   func(m *Machine) { m.VCPUs = 0 },
		"-1 MiB of memory": func(m *Machine) { m.MemoryMiB = -1 },
		"console log":      func(m *Machine) { m.ConsoleLog = "" },
		"want at most":     func(m *Machine) { m.Disks = make([]Disk, 22) },
	} {
		m := node()
		spoil(&m)
		if _, err := m.xml(nil, User{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

// Cards of other models, without offloads, and of another MTU.
func TestNICXML(t *testing.T) {
	m := node()
	m.NICs = []NIC{
		{Network: "hookbed-golden-mgmt", MAC: "52:54:00:12:00:0b"},
		{Network: "hookbed-golden-data", MAC: "52:54:00:12:01:0b", Queues: 4, MTU: 1400, NoOffloads: true},
		{Network: "hookbed-golden-data", MAC: "52:54:00:12:01:0c", Model: VMXNet3},
		{Network: "hookbed-golden-data", MAC: "52:54:00:12:01:0d", Model: E1000E, NoOffloads: true},
	}
	x, err := m.xml(nil, User{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "machine-nics.xml", text)
	m.NICs[3].Queues = 2
	if _, err := m.xml(nil, User{}); err == nil || !strings.Contains(err.Error(), "one queue") {
		t.Errorf("an e1000e with two queues: %v", err)
	}
}

func TestNetworkXML(t *testing.T) {
	for golden, n := range map[string]Network{
		"network-mgmt.xml":   {Name: "hookbed-golden-mgmt", Bridge: "hbm-golden", HostCIDR: "198.18.0.1/24"},
		"network-data.xml":   {Name: "hookbed-golden-data", Bridge: "hbd-golden", MTU: 9000},
		"network-bridge.xml": {Name: "hookbed-golden-data", Bridge: "br-data", Existing: true},
	} {
		x, err := n.xml()
		if err != nil {
			t.Fatal(err)
		}
		text, err := x.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		wantGolden(t, golden, text)
	}
}

func TestNetworkIsChecked(t *testing.T) {
	for want, n := range map[string]Network{
		"16 characters": {Name: "n", Bridge: "hbm-a-long-name1"},
		"0 characters":  {Name: "n"},
		"host address":  {Name: "n", Bridge: "hbm", HostCIDR: "198.18.0.1"},
	} {
		if _, err := n.xml(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error is %v, want one with %q", n, err, want)
		}
	}
}
