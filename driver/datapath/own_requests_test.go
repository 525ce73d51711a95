package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// ownHTTP are the policies of a user about a server of HTTP, and its pods.
func ownHTTP(policies, name string) *plan.Own {
	const pods = `pod:
- {name: app1, labels: {id: app1}, addresses: [198.19.3.1]}
- {name: app2, labels: {id: app2}, addresses: [198.19.3.2]}
- {name: app3, labels: {id: app3}, addresses: [198.19.3.3]}
`
	return &plan.Own{
		Files:     []plan.File{{Path: name, Data: []byte(policies)}},
		Inventory: plan.File{Path: "pods.yaml", Data: []byte(pods)},
		Server:    "default/app1", Client: "default/app2", Port: 80, Policies: 1,
	}
}

// ruleOf is a Cilium policy for app1 with rules of HTTP, one a line of JSON.
func ruleOf(peers string, rules ...string) string {
	return `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{` + peers + `"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}],
"rules": {"http": [` + strings.Join(rules, ",\n") + `]}}]}]}]`
}

const fromApp2 = `"fromEndpoints": [{"matchLabels": {"id": "app2"}}], `

// TestStudysPolicyOfRequests: figure 4 of the study is enforced by each filter that can look at
// sources, as it is written, and refused by the others with the reason.
func TestStudysPolicyOfRequests(t *testing.T) {
	data, err := os.ReadFile("../policy/testdata/study.json")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		filterL7HAProxy: "http-request allow if { src 198.18.11.10/32 } { method GET } { pathq /public }",
		filterL7Nginx:   `"~^.{0}1.{0} GET /public$" 1;`,
		filterL7Nft:     "ip saddr 198.18.11.10/32 tcp dport 80 @ih,0,128 0x474554202f7075626c69632048545450 @ih,128,8 0x2f counter accept",
		filterL7String:  `-A INPUT -s 198.18.11.10/32 -p tcp -m tcp --dport 80 -m string --string "GET /public HTTP/"`,
	}
	for _, f := range l7Filters() {
		d := entryOf(t, "bridge+"+f.name)
		setup, err := Render(OwnCell(d, ownHTTP(string(data), "study.json"), false))
		text, held := want[f.name]
		if !held {
			if !errors.Is(err, ErrCannotHold) || !strings.Contains(err.Error(), "study.json:7") || !strings.Contains(err.Error(), "does not look at sources") {
				t.Errorf("%s: %v, want a refusal because of sources", f.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		found := false
		for _, file := range setup.Files {
			found = found || strings.Contains(string(file.Data), text)
		}
		if !found {
			t.Errorf("%s: no file has %q", f.name, text)
		}
		tries := map[string]string{}
		for _, s := range setup.Prove {
			if do, ok := s.Do.(bundle.Requests); ok {
				for _, try := range do.Tries {
					tries[try.What] = try.Want
				}
			}
		}
		if tries["the client's request"] != "200" || tries["the client's path with more behind it"] != f.denied || tries["the client's request, of a pod that may not connect"] != f.denied {
			t.Errorf("%s: tries %v", f.name, tries)
		}
	}
}

// TestFiltersRefuseRequestsTheyCannotHold names file, line, rule and what to write.
func TestFiltersRefuseRequestsTheyCannotHold(t *testing.T) {
	first := []string{filterL7TC, filterL7SKSKB, filterL7SKMSG}
	all := []string{filterL7HAProxy, filterL7Nginx, filterL7Nft, filterL7String, filterL7TC, filterL7SKSKB, filterL7SKMSG}
	for _, tt := range []struct {
		policies, want string
		refuse         []string
	}{
		{ruleOf("", `{"method": "GET", "path": "/public"}`), "", nil},
		{ruleOf("", `{"path": "/public"}`), "it names the path \"/public\" and no method", append([]string{filterL7Nft, filterL7String}, first...)},
		{ruleOf("", `{"method": "GET", "path": "/`+strings.Repeat("x", 60)+`"}`), "and this filter compares 64", first},
		{ruleOf("", `{"method": "GET", "path": "/`+strings.Repeat("x", 130)+`"}`), "bytes, and this filter compares", append([]string{filterL7String}, first...)},
		{ruleOf("", `{"method": "GET", "path": "/(a|b)"}`), "regular expression", all},
		{ruleOf("", `{"method": "GET", "path": "/a", "host": "shop"}`), "it names the host", all},
		{ruleOf("", `{"method": "GET", "path": "/a", "headers": ["X-A"]}`), "it names the header", all},
		{`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}]}]}]`, "judges requests to port 80 alone", all},
	} {
		for _, name := range all {
			_, err := Render(OwnCell(entryOf(t, "bridge+"+name), ownHTTP(tt.policies, "p.json"), false))
			refused := errors.Is(err, ErrCannotHold)
			wanted := false
			for _, r := range tt.refuse {
				wanted = wanted || r == name
			}
			if refused != wanted || refused && (!strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "p.json:1")) || err != nil && !refused {
				t.Errorf("%s, %q: %v, want refused %v", name, tt.want, err, wanted)
			}
		}
	}
}

// TestPoliciesThatDenyNothing: what cannot be proven is refused when it is planned.
func TestPoliciesThatDenyNothing(t *testing.T) {
	for want, policies := range map[string]string{
		"requests of any path":       ruleOf("", `{"method": "GET"}`),
		"admit no GET of the client": ruleOf("", `{"method": "POST", "path": "/a"}`),
		"":                           ruleOf(fromApp2, `{"method": "GET", "path": "/a/.*"}`),
	} {
		d := entryOf(t, "bridge+"+filterL7HAProxy)
		why := d.OwnRefuses(plan.Spec{Lab: plan.Lab{Endpoint: plan.EndpointNetns}, Own: ownHTTP(policies, "p.json")}, plan.Arm{Options: map[string]string{optPolicy: PolicyOwn}}, plan.Localhost)
		if want == "" && why != "" || !strings.Contains(why, want) {
			t.Errorf("%q, want %q", why, want)
		}
	}
}

// TestRequestsAreJudgedAsTheReference holds the policies of requests that random rules of HTTP
// become to the rules as they are written: at every path and method of few, from every pod.
func TestRequestsAreJudgedAsTheReference(t *testing.T) {
	const sets = 2000
	admitted, denied, refused := 0, 0, 0
	for seed := range uint64(sets) {
		rng := rand.New(rand.NewPCG(0x68_74_74_70, seed))
		pick := func(list ...string) string { return list[rng.IntN(len(list))] }
		var rules []string
		for range 1 + rng.IntN(4) {
			rules = append(rules, fmt.Sprintf(`{"method": %q, "path": %q}`, pick("", "GET", "GET", "POST", "GET|HEAD", "P.*"), pick("", "/a", "/a/.*", "/ab", `/a\\.b`, "/b.*", "/b", "/(a|b)")))
		}
		peers := pick("", fromApp2, `"fromEndpoints": [{"matchLabels": {"id": "app3"}}, {"matchLabels": {"id": "app2"}}], `, `"fromCIDR": ["198.19.9.0/24"], `)
		own := ownHTTP(ruleOf(peers, rules...), "p.json")
		topology := Layout(plan.Cell{Factors: map[string]string{plan.FactorScenario: plan.Localhost}, Own: own})
		o, err := ownOf(own, topology)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		list, err := requestHoldingOf(filterL7HAProxy).lower(o.rules.Entries, o.port)
		if err != nil {
			refused++
			continue
		}
		for _, from := range []string{topology.Client.Addr.String(), "198.19.3.3", "198.19.9.7", "198.19.8.7"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
				for _, path := range []string{"/", "/a", "/a/", "/a/x", "/ab", "/a.b", "/aXb", "/b", "/bb", "/c"} {
					source := netip.MustParseAddr(from)
					got := false
					for _, p := range list {
						got = got || (!p.Source.IsValid() || p.Source.Contains(source)) && (p.Method == "" || p.Method == method) &&
							(p.Exact && p.Prefix == path || !p.Exact && strings.HasPrefix(path, p.Prefix))
					}
					if want := o.admitsRequest(source, topology.Server, method, path); got != want {
						t.Fatalf("seed %d, %s %s from %s: %v, the reference %v: %+v\n%s", seed, method, path, from, got, want, list, own.Files[0].Data)
					}
					if got {
						admitted++
					} else {
						denied++
					}
				}
			}
		}
	}
	if admitted < sets || denied < sets || refused == 0 || refused == sets {
		t.Errorf("%d requests admitted, %d denied, %d sets refused: the samples say too little", admitted, denied, refused)
	}
}

// TestPathOfTheUsersPolicies: the workload requests what they admit, of every arm the same.
func TestPathOfTheUsersPolicies(t *testing.T) {
	own := ownHTTP(ruleOf(fromApp2, `{"method": "POST", "path": "/write"}`, `{"method": "GET", "path": "/public/.*"}`), "p.json")
	for _, name := range []string{"bridge+l7-haproxy", "bridge+nft-linear", "bridge+none"} {
		if got := RequestPath(OwnCell(entryOf(t, name), own, false)); got != "/public/item" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
