package datapath

import (
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Policies name the protocol of the cell's workload, and what cannot is an error,
// never a rule about another.
func TestPoliciesNameTheWorkloadsProtocol(t *testing.T) {
	for filter, want := range map[string]string{
		filterIptablesLegacy: "-p udp -m udp --dport 5001", filterNftLinear: "udp dport 5001", filterIpset: ",17:5001",
		filterNftSet:  "error: the policies name udp and tcp", // the control connection stays TCP
		filterNftVmap: "error: the policies name udp and tcp", filterBPFilter: "udp.dport",
	} {
		c := cellOf(t, "bridge+"+filter, plan.Localhost, plan.EndpointNetns, 10, nil)
		c.Protocol = "udp"
		s, err := Render(c)
		if problem, wrong := strings.CutPrefix(want, "error: "); wrong {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: %v, want %q", filter, err, problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		if text := rendered(s.Files); strings.Count(text, want) < 1 || strings.Count(text, "tcp dport 5001") > 0 {
			t.Errorf("%s: %q is not in\n%s", filter, want, text)
		}
	}
	c := cellOf(t, "docker", plan.Localhost, plan.EndpointNetns, 0, nil)
	c.Protocol = "sctp"
	if _, err := Render(c); err == nil || !strings.Contains(err.Error(), `no policy can name the protocol "sctp"`) {
		t.Errorf("sctp: %v", err)
	}
}

func rendered(files map[string]bundle.File) string {
	var b strings.Builder
	for _, f := range files {
		b.Write(f.Data)
	}
	return b.String()
}
