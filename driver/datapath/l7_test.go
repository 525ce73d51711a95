package datapath

import (
	"slices"
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// TestRequestPolicies: no two policies are about one path, a longer list begins as a shorter
// one does, the workload's is about GET, every beginning fits what programs judge, and no
// policy is about the paths that must stay unnamed.
func TestRequestPolicies(t *testing.T) {
	for _, n := range []int{1, 2, 10, 1000, mostRequestPolicies} {
		all := RequestPolicies(n, n-1)
		seen := map[string]bool{}
		for _, p := range all {
			if seen[p.Prefix] || len(p.text()) > bpf.RequestBytes || !strings.HasPrefix(p.Prefix, "/public/") || !strings.HasSuffix(p.Prefix, "/") {
				t.Fatalf("policy %+v of %d: seen before, too long, or of another form", p, n)
			}
			seen[p.Prefix] = true
		}
		if len(all) != n || !strings.HasPrefix(all[n-1].text(), "GET /") || seen[ExtraRequest().Prefix] || seen[requestPrefix(unlistedRequest)] {
			t.Errorf("%d policies of %d, the last is %+v", len(all), n, all[n-1])
		}
		if shorter := RequestPolicies(n/2, -1); !slices.Equal(shorter, RequestPolicies(n, -1)[:n/2]) {
			t.Errorf("the first %d of %d policies are others", n/2, n)
		}
	}
}

// TestRequestPath: the path has the same length whatever N is, is the same for filters of
// requests and others, and is what the policy at the position admits.
func TestRequestPath(t *testing.T) {
	for _, match := range []string{matchLast, matchFirst, matchUniform} {
		for _, n := range []int{0, 1, 10, 1000} {
			l7 := cellOf(t, "bridge+l7-nft", plan.Localhost, plan.EndpointNetns, n, map[string]string{optMatch: match})
			l4 := cellOf(t, "bridge+nft-set", plan.Localhost, plan.EndpointNetns, n, map[string]string{optMatch: match})
			path := RequestPath(l7)
			if len(path) != len("/public/0000/item") || RequestPath(l4) != path {
				t.Errorf("%s, N = %d: %q, and %q with policies of L4", match, n, path, RequestPath(l4))
			}
			all, at := requestsOf(l7)
			if n > 0 && (!strings.HasPrefix(all[at].text(), "GET /") || !strings.HasPrefix(path, all[at].Prefix) || match == matchLast && at != n-1 || match == matchFirst && at != 0) {
				t.Errorf("%s, N = %d: %q meets policy %d, %+v", match, n, path, at, all[at])
			}
		}
	}
}

// TestRequestProof: what no policy admits must be denied in the way of the filter, by its
// counters too where it has them, and as many policies must be there as the cell has.
func TestRequestProof(t *testing.T) {
	for _, d := range possible(true) {
		if d.Application == "" {
			continue
		}
		s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, 10, nil))
		denied, counted, realised := 0, false, false
		for _, st := range s.Prove {
			switch do := st.Do.(type) {
			case bundle.Requests:
				for _, try := range do.Tries {
					if try.Want != "200" {
						denied++
					}
				}
			case bundle.Expect:
				counted = counted || do.Key == bundle.CountDropped && do.Value == 2
				realised = realised || (do.Key == bundle.CountRules || strings.HasPrefix(do.Key, bundle.CountEntriesOf)) && do.Value >= 10 && do.Value <= 12
			}
		}
		silent := d.Filter == filterL7Nginx // it reports neither
		if denied != 2 || counted == silent || realised == silent {
			t.Errorf("%s: %d denied, counted %v, policies read back %v", d.Name, denied, counted, realised)
		}
	}
}
