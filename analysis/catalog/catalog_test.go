package catalog

import (
	"slices"
	"testing"
)

func TestRegimes(t *testing.T) {
	c := Schema1()
	for _, tt := range []struct {
		factors map[string]string
		want    string
	}{
		{map[string]string{"filter": "iptables-legacy"}, AsStudy},
		{map[string]string{"datapath": "iptables", "state": "established-first"}, EstablishedFirst},
		{map[string]string{"filter": "nft-set", "state": "stateless"}, Stateless},
		{map[string]string{"filter": "tc-hash", "enforce": "all"}, AsStudy},
		{map[string]string{"filter": "tc-hash", "enforce": "policy-first"}, PolicyFirst},
		{map[string]string{"filter": "xdp-hash"}, Stateless},
		{map[string]string{"filter": "bpfilter"}, Stateless},
		{map[string]string{"filter": "none"}, ""},
		{map[string]string{"filter": "custom"}, ""},
		{map[string]string{"filter": "unheard-of"}, ""},
	} {
		if got := c.Regime(tt.factors); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.factors, got, tt.want)
		}
	}
	for filter, want := range map[string]bool{"nft-set": true, "tc-hash": false, "xdp-hash": true, "none": false, "custom": false} {
		if got := c.CanBe(filter, Stateless); got != want {
			t.Errorf("%s can be stateless: %v, want %v", filter, got, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := Schema1()
	for _, tt := range []struct {
		factors map[string]string
		key     string
		level   string
		normal  bool
	}{
		{map[string]string{"filter": "tc-hash"}, "attach", "clsact", true},
		{map[string]string{"filter": "xdp-hash"}, "attach", "native", true},
		{map[string]string{"filter": "xdp-hash", "attach": "clsact"}, "attach", "clsact", false}, // another's default
		{map[string]string{"filter": "xdp-hash", "scenario": "localhost", "where": "endpoint"}, "where", "endpoint", true},
		{map[string]string{"filter": "xdp-hash", "scenario": "multi-host", "where": "endpoint"}, "where", "endpoint", false},
		{map[string]string{"filter": "xdp-filter"}, "policy", "l3", true},
		{map[string]string{"filter": "tc-hash"}, "state", "", true},
		{map[string]string{"datapath": "cilium-like", "prealloc": "on"}, "prealloc", "on", false},
	} {
		if got := c.Level(tt.factors, tt.key); got != tt.level || c.AtDefault(tt.factors, tt.key) != tt.normal {
			t.Errorf("%v: %s is %q, at its default %v", tt.factors, tt.key, got, c.AtDefault(tt.factors, tt.key))
		}
	}
}

// Of two plans the first is used; entries that only the second has are inserted in
// the driver's order.
func TestJoin(t *testing.T) {
	a := Catalog{Filters: []Filter{{Name: "none"}, {Name: "list", Structure: List, Defaults: map[string]string{"x": "1"}}}}
	b := Catalog{Filters: []Filter{{Name: "none"}, {Name: "early"}, {Name: "list", Structure: Hash, Defaults: map[string]string{"x": "2", "y": "2"}}, {Name: "late"}}}
	joined := Join(a, b)
	var names []string
	for _, f := range joined.Filters {
		names = append(names, f.Name)
	}
	if want := []string{"none", "early", "list", "late"}; !slices.Equal(names, want) {
		t.Errorf("filters %v, want %v", names, want)
	}
	if f, _ := joined.Filter("list"); f.Structure != List || f.Defaults["x"] != "1" || f.Defaults["y"] != "2" {
		t.Errorf("%+v", f)
	}
	if f, _ := a.Filter("list"); len(f.Defaults) != 1 {
		t.Errorf("the first was changed: %+v", f)
	}
}

func TestMetrics(t *testing.T) {
	c := Schema1()
	for metric, want := range map[string]bool{"throughput": true, "rate": true, "latency_mean": false, "instructions_per_mib": false, "unheard_of": false} {
		if got := c.HigherIsBetter(metric); got != want {
			t.Errorf("higher is better for %s: %v", metric, got)
		}
	}
	for name, want := range map[string]string{"TCP_STREAM": "throughput", "TCP_RR": "rate", "TCP_CRR": "rate"} {
		w, ok := c.Workload(name)
		if !ok || w.Stopping().Name != want || w.Rate().Unit == "" {
			t.Errorf("%s stops by %q", name, w.Stopping().Name)
		}
	}
}
