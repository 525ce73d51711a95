package plan

import (
	"errors"
	"strings"
	"testing"
)

func TestCPUsAsText(t *testing.T) {
	for want, cpus := range map[string][]int{"0": {0}, "0 to 1": {0, 1}, "0 to 3, or 8, or 10 to 11": {0, 1, 2, 3, 8, 10, 11}} {
		if got := cpusText(cpus); got != want {
			t.Errorf("%v is %q, want %q", cpus, got, want)
		}
	}
}

// TestWhatThisComputerHasNot: found in the file where the local provider's nodes,
// or guests in virtual time, are what they are.
func TestWhatThisComputerHasNot(t *testing.T) {
	cat := testCatalog()
	cat.Here = &Computer{Title: "this computer", CPUs: []int{0, 2, 3}, Congestion: []string{"reno", "bbr"}, Restricted: []string{"cubic"}}
	cat.Sealed = &Computer{Title: "guests in virtual time", Congestion: []string{"reno", "cubic"}}
	const local, virtual, vms = "provider = \"local\"\n", "clock = \"virtual\"\n", "provider = \"libvirt\"\nvcpus = 4\n"
	const tail = "[matrix]\nscenarios = [\"localhost\"]\nworkloads = [\"TCP_RR\"]\npolicies = [1]\n[[arm]]\nname = \"a\"\ndatapath = \"iptables\"\n"
	for _, c := range []struct{ lab, measure, want string }{
		{local, "server_cpu = 2", ""},
		{local, "server_cpu = 3\ncongestion = \"bbr\"", ""},
		{local, "server_cpu = 1", "t.toml:6: measure.server_cpu: 1 is not a CPU that programs can be pinned to on this computer, want 0, or 2 to 3"},
		{local, "server_cpu = 2\nclient_cpu = 7", "t.toml:7: measure.client_cpu: 7 is not a CPU that programs can be pinned to on this computer"},
		{local, "client_cpu = 0", "t.toml:5: measure.server_cpu: is not written, and its default 1 is not a CPU that programs can be pinned to on this computer, want 0, or 2 to 3; write server_cpu = 0"},
		{local, "server_cpu = 2\ncongestion = \"bbx\"", `t.toml:7: measure.congestion: "bbx" is not a congestion control that the kernel of this computer has, want "reno" or "bbr" (did you mean "bbr"?)`},
		{local, "server_cpu = 2\ncongestion = \"cubic\"", `t.toml:7: measure.congestion: "cubic" is a congestion control that the kernel of this computer keeps from network namespaces, want "reno" or "bbr"; or add it`},
		{vms, "server_cpu = 1\ncongestion = \"vegas\"", ""},
		{virtual, "congestion = \"cubic\"", ""},
		{virtual, "congestion = \"bbr\"", `t.toml:6: measure.congestion: "bbr" is not a congestion control that the kernel of guests in virtual time has, want "reno" or "cubic"`},
	} {
		text := "schema = 1\nname = \"t\"\n[lab]\n" + c.lab + "[measure]\n" + c.measure + "\n" + tail
		_, err := Parse("t.toml", []byte(text), cat)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s%s: %v", c.lab, c.measure, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s%s: %v, want %q alone", c.lab, c.measure, err, c.want)
		}
		if _, err := Parse("t.toml", []byte(text), testCatalog()); err != nil {
			t.Errorf("where nothing is known of the computer: %v", err)
		}
	}
}

// TestUnfitChecksEachNodeForWhatRunsThere: the client is on the first, the server on
// the last, and what is not known of a machine is not checked.
func TestUnfitChecksEachNodeForWhatRunsThere(t *testing.T) {
	few, many := Computer{Title: "its machine", CPUs: []int{0}, Congestion: []string{"reno"}}, Computer{Title: "its machine", CPUs: []int{0, 1}, Congestion: []string{"reno", "bbr"}}
	for _, c := range []struct {
		scenarios    string
		client       int
		server       int
		congestion   string
		node1, node2 Computer
		want         string
	}{
		{"localhost", 0, 1, "reno", many, few, ""},
		{"localhost", 0, 1, "reno", few, many, "node1: measure.server_cpu: 1 is not a CPU that programs can be pinned to on its machine, want 0"},
		{"multi-host", 0, 1, "reno", few, many, ""},
		{"multi-host", 1, 0, "reno", many, few, ""},
		{"multi-host", 1, 0, "reno", few, many, "node1: measure.client_cpu: 1 is"},
		{"multi-host", 0, 1, "reno", many, few, "node2: measure.server_cpu: 1 is"},
		{"localhost multi-host", 0, 1, "reno", few, many, "node1: measure.server_cpu: 1 is"},
		{"multi-host", 0, 0, "bbr", many, few, `node2: measure.congestion: "bbr" is not a congestion control that the kernel of its machine has, want "reno"`},
		{"localhost", 0, 0, "bbr", many, few, ""},
		{"multi-host", 9, 9, "bbr", Computer{}, Computer{}, ""},
	} {
		s := Spec{Scenarios: strings.Fields(c.scenarios), Measure: Measure{ClientCPU: c.client, ServerCPU: c.server, Congestion: c.congestion}}
		err := s.Unfit(func(node string) Computer { return map[string]Computer{"node1": c.node1, "node2": c.node2}[node] })
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%+v: %v, want %q alone", c, err, c.want)
		}
	}
}
