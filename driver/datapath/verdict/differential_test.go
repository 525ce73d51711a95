package verdict_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/datapath/verdict"
	"hookbed/driver/plan"
	"hookbed/driver/policy"
	"hookbed/driver/policy/policytest"
)

// Random sets of policies that TestEveryFilterAnswersAsTheReference has.
var (
	sets  = flag.Int("sets", 500, "number of random sets of policies")
	first = flag.Int("first", 0, "seed of the first of them")
)

// TestEveryFilterAnswersAsTheReference renders random policies for every filter, and holds
// what the rendered rules, sets and maps say of a flow to what the policies say as they are
// written. Each filter must hold many of the sets, and refuse some unless it holds all.
func TestEveryFilterAnswersAsTheReference(t *testing.T) {
	counts := map[string]*count{}
	for i := range *sets {
		seed := uint64(*first + i)
		s := policytest.Generate(seed)
		c, own := read(t, s)
		for _, d := range enforcing() {
			if counts[d.Filter] == nil {
				counts[d.Filter] = &count{}
			}
			counts[d.Filter].hold(t, seed, d, s, c, own)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		n := counts[name]
		t.Logf("%-16s %6d sets held, %6d refused; %8d flows allowed, %8d denied", name, n.held, n.refused, n.allowed, n.denied)
		if n.held == 0 || n.allowed == 0 || n.denied == 0 {
			t.Errorf("%s: nothing was compared", name)
		}
	}
}

// count is what became of the sets in one filter.
type count struct{ held, refused, allowed, denied int }

func (n *count) hold(t *testing.T, seed uint64, d plan.DatapathEntry, s policytest.Sample, c *policy.Cluster, own *plan.Own) {
	t.Helper()
	setup, err := datapath.Render(datapath.OwnCell(d, own, s.IPv6))
	if errors.Is(err, datapath.ErrCannotHold) {
		n.refused++
		return
	}
	if err != nil {
		t.Fatalf("seed %d, %s: %v\n%s", seed, d.Name, err, s.Policies)
	}
	f, err := verdict.Read(setup.Files, setup.Apply)
	if err != nil {
		t.Fatalf("seed %d, %s: %v", seed, d.Name, err)
	}
	n.held++
	for _, flow := range s.Flows {
		want := c.Decide(flow)
		got := f.Decide(verdict.Flow{From: flow.From, Proto: flow.Proto, Port: flow.Port})
		if got.Allowed != want.Allowed {
			t.Fatalf("seed %d, %s, %+v: %+v, the reference %+v\n%s\n%s", seed, d.Name, flow, got, want, s.Inventory, s.Policies)
		}
		if got.Allowed {
			n.allowed++
		} else {
			n.denied++
		}
	}
}

// enforcing are the datapaths of the cross with every filter that takes policies of users, once.
func enforcing() (out []plan.DatapathEntry) {
	for _, d := range datapath.Catalog() {
		if d.Crossed && d.Base && d.Impossible == "" && !d.NoPolicies && d.OwnLevels != nil && d.Application == "" {
			out = append(out, d)
		}
	}
	return out
}

func read(t *testing.T, s policytest.Sample) (*policy.Cluster, *plan.Own) {
	t.Helper()
	set, err := policy.Read("policies.yaml", s.Policies)
	if err != nil {
		t.Fatal(err)
	}
	in, err := policy.ReadInventory("inventory.yaml", s.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.NewCluster(set, in)
	if err != nil {
		t.Fatal(err)
	}
	return c, plan.InPlace(c, in.Pods[1].Name, s.Server, 5001)
}

// TestWhereAFilterDecides names lines and entries.
func TestWhereAFilterDecides(t *testing.T) {
	set, err := policy.Read("p.yaml", []byte("source,port,protocol,action\n198.19.0.9/32,80,tcp,allow\n198.19.0.7/32,80,tcp,allow\n"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := policy.ReadInventory("i.yaml", []byte("pod:\n- {name: s, addresses: [198.19.0.1]}\n- {name: c, addresses: [198.19.0.7]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.NewCluster(set, in)
	if err != nil {
		t.Fatal(err)
	}
	own := plan.InPlace(c, "default/c", "default/s", 80)
	want := map[string]string{
		"iptables-legacy": "policy.rules:4", "iptables-nft": "policy.rules:4", "ipset": "policy.rules:3", "nft-linear": "policy.nft:6", "nft-set": "policy.nft:13",
		"nft-vmap": "policy.nft:17", "nft-interval": "policy.nft:14", "tc-linear": "map list, entry 2", "tc-hash": "map policy, entry 2", "tc-lpm": "map trie, entry 2",
		"xdp-linear": "map list, entry 2", "xdp-hash": "map policy, entry 2", "xdp-lpm": "map trie, entry 2", "custom": "policies.csv:3", "bpfilter": "bpfilter.chain:3",
	}
	for _, d := range enforcing() {
		setup, err := datapath.Render(datapath.OwnCell(d, own, false))
		if errors.Is(err, datapath.ErrCannotHold) {
			if want[d.Filter] != "" {
				t.Errorf("%s: %v", d.Filter, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := verdict.Read(setup.Files, setup.Apply)
		if err != nil {
			t.Fatal(err)
		}
		got := f.Decide(verdict.Flow{From: in.Pods[1].Addresses[0], Proto: policy.ProtoTCP, Port: 80})
		if !got.Allowed || got.Where != want[d.Filter] {
			t.Errorf("%s: %+v, want %s", d.Filter, got, want[d.Filter])
		}
		if denied := f.Decide(verdict.Flow{From: in.Pods[1].Addresses[0], Proto: policy.ProtoTCP, Port: 81}); denied.Allowed || denied.Where == "" {
			t.Errorf("%s at another port: %+v", d.Filter, denied)
		}
		fmt.Fprintf(t.Output(), "%s %s %s\n", d.Filter, got.Where, got.Text)
	}
}
