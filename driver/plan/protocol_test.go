package plan

import (
	"strings"
	"testing"
)

// udp is an experiment with a workload of UDP.
const udp = `schema = 1
name = "udp"
[lab]
provider = "local"
[matrix]
scenarios = ["localhost"]
workloads = [%WORKLOADS%]
policies = [0, 10]
[[arm]]
name = "plain"
datapath = "docker"
[[arm]]
name = "a"
datapath = "iptables"
`

// One line more in the catalog makes a workload, and not one that policies about
// another protocol would be measured with.
func TestWorkloadsOfAnotherProtocolAreRefused(t *testing.T) {
	cat := testCatalog()
	cat.Workloads = append(cat.Workloads, WorkloadEntry{Name: "UDP_RR", Protocol: "udp"}, WorkloadEntry{Name: "SAYS_NOTHING"})
	for workloads, want := range map[string]string{
		`"UDP_RR"`:           `udp.toml:14: arm.datapath: "iptables" has policies about TCP, and "UDP_RR" (matrix.workloads in line 7) is a workload of UDP, which they would never see; write workloads of "TCP_STREAM", "TCP_RR", or remove the arm`,
		`"TCP_RR", "UDP_RR"`: `udp.toml:7: matrix.workloads: "UDP_RR" is a workload of UDP and "TCP_RR" one of TCP, and the policies of an experiment name one protocol; write an experiment for each`,
		`"SAYS_NOTHING"`:     `"SAYS_NOTHING" (matrix.workloads in line 7) is a workload of no protocol that the catalog says`,
	} {
		_, err := Parse("udp.toml", []byte(strings.Replace(udp, "%WORKLOADS%", workloads, 1)), cat)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", workloads, err, want)
		}
	}
	able := strings.Replace(udp, "%WORKLOADS%", `"UDP_RR"`, 1)
	if _, err := Parse("udp.toml", []byte(able[:strings.LastIndex(able, "[[arm]]")]), cat); err != nil {
		t.Errorf("without policies: %v", err)
	}
	cat.Datapaths[1].Protocols = []string{"tcp", "udp"}
	s, err := Parse("udp.toml", []byte(able), cat)
	if err != nil {
		t.Fatalf("where policies can name it: %v", err)
	}
	p, err := Expand(s, cat)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Cells {
		if c.Protocol != "udp" {
			t.Errorf("%s is of protocol %q", c.Title(), c.Protocol)
		}
	}
}
