package policy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"hookbed/driver/policy"
)

// TestChoose takes what the last possible entry of the longest list admits.
func TestChoose(t *testing.T) {
	c := joined(t, networkPolicy("  podSelector: {matchLabels: {app: db}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: web}}}]\n    ports: [{port: sql}, {port: 12865}]\n"))
	got, err := c.Choose(policy.Measured{Proto: policy.ProtoTCP}, 12865)
	if want := (policy.Measured{Client: "shop/web", Server: "shop/db", Proto: policy.ProtoTCP, Port: 5432}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, w := range []struct {
		want policy.Measured
		text string
	}{
		{policy.Measured{Proto: policy.ProtoTCP, Server: "shop/web"}, "no policy selects pod \"shop/web\""},
		{policy.Measured{Proto: policy.ProtoTCP, Client: "ops/probe"}, "from client ops/probe to server (any)"},
		{policy.Measured{Proto: policy.ProtoTCP, Port: 80}, "at port 80"},
		{policy.Measured{Proto: policy.ProtoTCP, Server: "nowhere"}, "has no pod \"nowhere\""},
	} {
		if _, err := c.Choose(w.want); !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), w.text) {
			t.Errorf("%+v: %v, want %s", w.want, err, w.text)
		}
	}
}

// TestEgressConflict finds a source that may not send where the server admits it.
func TestEgressConflict(t *testing.T) {
	const ingress = "  podSelector: {matchLabels: {app: db}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: web}}}]\n    ports: [{port: 80, endPort: 90}]\n"
	for egress, want := range map[string]bool{
		"  - to: [{podSelector: {}}]\n":                                                   false,
		"  - to: [{podSelector: {}}]\n    ports: [{port: 80, endPort: 90}]\n":             false,
		"  - to: [{podSelector: {}}]\n    ports: [{port: 80, endPort: 89}]\n":             true,
		"  - to: [{podSelector: {}}]\n    ports: [{port: 80}, {port: 82, endPort: 90}]\n": true,
	} {
		c := joined(t, networkPolicy(ingress)+"---\n"+networkPolicy("  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  egress:\n"+egress))
		pod, err := c.Inventory().Pod("shop/db")
		if err != nil {
			t.Fatal(err)
		}
		if e, by, got := c.EgressConflict(pod, c.Ingress(pod, false)); got != want {
			t.Errorf("%s: %v %+v %+v, want %v", egress, got, e, by, want)
		}
	}
}

// TestMoved moves a pod, and a list's entry about its address, and nothing else.
func TestMoved(t *testing.T) {
	c := joined(t, "source,port,protocol,action\n198.19.0.2/32,80,tcp,allow\n198.19.0.0/24,81,tcp,allow\n")
	to := netip.MustParseAddr("198.18.11.10")
	moved, err := c.Moved(map[string]netip.Addr{"shop/web": to})
	if err != nil {
		t.Fatal(err)
	}
	got := lines(moved)
	if got != "198.18.11.10/32,80,tcp,allow 198.19.0.0/24,81,tcp,allow" || !strings.HasPrefix(lines(c), "198.19.0.2/32") {
		t.Errorf("got %s", got)
	}
	if _, err := c.Moved(map[string]netip.Addr{"shop/web": netip.MustParseAddr("198.19.0.3")}); !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), "write another") {
		t.Errorf("onto another pod: %v", err)
	}
}

func lines(c *policy.Cluster) string {
	var out []string
	for _, e := range c.Ingress(nil, false).Entries {
		out = append(out, e.Line())
	}
	return strings.Join(out, " ")
}
