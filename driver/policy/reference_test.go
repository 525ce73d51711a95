package policy_test

import (
	"testing"

	"hookbed/driver/policy"
	"hookbed/driver/policy/policytest"
)

// TestEntriesAdmitWhatTheReferenceDoes holds the entries of random policies, which have no
// labels, ranges of exceptions or names any more, to the policies as they are written.
func TestEntriesAdmitWhatTheReferenceDoes(t *testing.T) {
	allowed, denied, free := 0, 0, 0
	for seed := range uint64(500) {
		s := policytest.Generate(seed)
		c, pod := cluster(t, s)
		rules := c.Ingress(pod, s.IPv6)
		if !rules.Isolated {
			free++
		}
		if _, _, conflict := c.EgressConflict(pod, rules); conflict {
			continue
		}
		for _, f := range s.Flows {
			want := c.Decide(f)
			_, got := rules.Admits(f.From, f.Proto, f.Port)
			// A pod without rules of ingress can still be unreachable for its peer's egress.
			if !rules.Isolated && want.Direction == policy.Egress.String() {
				continue
			}
			if got != want.Allowed {
				t.Fatalf("seed %d, %+v: the entries say %v, the reference %+v\n%s\n%s", seed, f, got, want, s.Inventory, s.Policies)
			}
			if got {
				allowed++
			} else {
				denied++
			}
		}
	}
	if allowed < 1500 || denied < 1500 || free == 0 {
		t.Errorf("%d flows allowed, %d denied, %d endpoints free: the samples say too little", allowed, denied, free)
	}
}

func cluster(t *testing.T, s policytest.Sample) (*policy.Cluster, *policy.Pod) {
	t.Helper()
	set, err := policy.Read("policies.yaml", s.Policies)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Policies)
	}
	in, err := policy.ReadInventory("inventory.yaml", s.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.NewCluster(set, in)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := in.Pod(s.Server)
	if err != nil {
		t.Fatal(err)
	}
	return c, pod
}
