package policy_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"hookbed/driver/policy"
)

const inventory = `
[[namespace]]
name = "shop"
labels = { team = "red" }

[[pod]]
name = "shop/db"
labels = { app = "db" }
addresses = ["198.19.0.1"]
ports = { sql = 5432 }

[[pod]]
name = "shop/web"
labels = { app = "web", tier = "front" }
addresses = ["198.19.0.2", "2001:2:0:1319::2"]

[[pod]]
name = "ops/probe"
labels = { app = "probe" }
addresses = ["198.19.0.3"]

[[pod]]
name = "app1"
labels = { id = "app1" }
addresses = ["198.19.0.11"]

[[pod]]
name = "app2"
labels = { id = "app2" }
addresses = ["198.19.0.12"]
`

// networkPolicy is a NetworkPolicy in namespace shop with a spec.
func networkPolicy(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n" + spec
}

func ciliumPolicy(spec string) string {
	return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: shop}\nspec:\n" + spec
}

func joined(t *testing.T, policies string) *policy.Cluster {
	t.Helper()
	set, err := policy.Read("p.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	in, err := policy.ReadInventory("pods.toml", []byte(inventory))
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.NewCluster(set, in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSemantics has what the documents of Kubernetes and Cilium say of their policies.
func TestSemantics(t *testing.T) {
	const toDB = "  podSelector: {matchLabels: {app: db}}\n"
	const toDBCilium = "  endpointSelector: {matchLabels: {\"k8s:app\": db}}\n"
	for _, c := range []struct {
		name, policies, from, to string
		port                     uint16
		want                     bool
		line                     int
	}{
		{"nothing selects", networkPolicy("  podSelector: {matchLabels: {app: none}}\n"), "198.19.0.3", "198.19.0.1", 80, true, 0},
		{"selected, no rule", networkPolicy(toDB), "198.19.0.2", "198.19.0.1", 80, false, 1},
		{"empty rule admits all", networkPolicy(toDB + "  ingress:\n  - {}\n"), "203.0.113.1", "198.19.0.1", 80, true, 7},
		{"pods of the same namespace", networkPolicy(toDB + "  ingress:\n  - from: [{podSelector: {}}]\n"), "198.19.0.2", "198.19.0.1", 80, true, 7},
		{"not those of another", networkPolicy(toDB + "  ingress:\n  - from: [{podSelector: {}}]\n"), "198.19.0.3", "198.19.0.1", 80, false, 1},
		{"namespace by its own label", networkPolicy(toDB + "  ingress:\n  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]\n"), "198.19.0.3", "198.19.0.1", 80, true, 7},
		{"namespace and pod both", networkPolicy(toDB + "  ingress:\n  - from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: probe}}}]\n"), "198.19.0.2", "198.19.0.1", 80, false, 1},
		{"named port", networkPolicy(toDB + "  ingress:\n  - ports: [{port: sql}]\n"), "203.0.113.1", "198.19.0.1", 5432, true, 7},
		{"range ends", networkPolicy(toDB + "  ingress:\n  - ports: [{port: 80, endPort: 90}]\n"), "203.0.113.1", "198.19.0.1", 90, true, 7},
		{"behind the range", networkPolicy(toDB + "  ingress:\n  - ports: [{port: 80, endPort: 90}]\n"), "203.0.113.1", "198.19.0.1", 91, false, 1},
		{"except", networkPolicy(toDB + "  ingress:\n  - from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/28]}}]\n"), "203.0.113.1", "198.19.0.1", 80, false, 1},
		{"outside of except", networkPolicy(toDB + "  ingress:\n  - from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/28]}}]\n"), "203.0.113.16", "198.19.0.1", 80, true, 7},
		{"egress of the source", networkPolicy("  podSelector: {}\n  policyTypes: [Egress]\n"), "198.19.0.2", "198.19.0.1", 80, false, 1},
		{"egress admits", networkPolicy("  podSelector: {}\n  egress:\n  - to: [{podSelector: {matchLabels: {app: db}}}]\n  policyTypes: [Egress]\n"), "198.19.0.2", "198.19.0.1", 80, true, 7},
		{"policies add up", networkPolicy(toDB) + "---\n" + networkPolicy(toDB+"  ingress:\n  - {}\n"), "203.0.113.1", "198.19.0.1", 80, true, 13},
		{"Cilium: empty section denies", ciliumPolicy(toDBCilium + "  ingress:\n  - {}\n"), "198.19.0.2", "198.19.0.1", 80, false, 5},
		{"Cilium: empty selector is the namespace", ciliumPolicy(toDBCilium + "  ingress:\n  - fromEndpoints: [{}]\n"), "198.19.0.3", "198.19.0.1", 80, false, 5},
		{"Cilium: another namespace", ciliumPolicy(toDBCilium + "  ingress:\n  - fromEndpoints: [{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": ops}}]\n"), "198.19.0.3", "198.19.0.1", 80, true, 7},
		{"Cilium: CIDRs are not pods", ciliumPolicy(toDBCilium + "  ingress:\n  - fromCIDR: [198.19.0.0/16]\n"), "198.19.0.2", "198.19.0.1", 80, false, 5},
		{"Cilium: CIDRs are others", ciliumPolicy(toDBCilium + "  ingress:\n  - fromCIDR: [198.19.0.0/16]\n"), "198.19.7.7", "198.19.0.1", 80, true, 7},
		{"Cilium: no ingress does not isolate", ciliumPolicy(toDBCilium + "  ingress: []\n"), "198.19.7.7", "198.19.0.1", 80, true, 0},
		{"Cilium: port of any protocol", ciliumPolicy(toDBCilium + "  ingress:\n  - toPorts: [{ports: [{port: \"80\"}]}]\n"), "198.19.7.7", "198.19.0.1", 80, true, 7},
		{"lines", "source,port,protocol,action\n# a comment\n198.19.7.0/24,80-82,tcp,allow\n", "198.19.7.7", "198.19.0.1", 82, true, 3},
		{"lines, other port", "source,port,protocol,action\n198.19.7.0/24,80-82,tcp,allow\n", "198.19.7.7", "198.19.0.1", 83, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := joined(t, c.policies).Decide(policy.Flow{From: netip.MustParseAddr(c.from), To: netip.MustParseAddr(c.to), Proto: policy.ProtoTCP, Port: c.port})
			if d.Allowed != c.want || d.At.Line != c.line {
				t.Errorf("got %+v, want allowed %v by line %d", d, c.want, c.line)
			}
		})
	}
}

// TestStudysPolicy reads the policy of the study's figure 4.
func TestStudysPolicy(t *testing.T) {
	data, err := os.ReadFile("testdata/study.json")
	if err != nil {
		t.Fatal(err)
	}
	c := joined(t, string(data))
	flow := policy.Flow{From: netip.MustParseAddr("198.19.0.12"), To: netip.MustParseAddr("198.19.0.11"), Proto: policy.ProtoTCP, Port: 80}
	d := c.Decide(flow)
	if !d.Allowed || len(d.HTTP) != 1 || d.HTTP[0].Method != http.MethodGet || d.HTTP[0].Path != "/public" {
		t.Errorf("app2 at port 80: %+v, want GET /public", d)
	}
	flow.From = netip.MustParseAddr("198.19.0.3")
	if d := c.Decide(flow); d.Allowed {
		t.Errorf("another pod: %+v, want denied", d)
	}
}

// TestList reads items of a list, and JSON.
func TestList(t *testing.T) {
	text := `{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
		"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"podSelector": {}}}]}`
	set, err := policy.Read("p.json", []byte(text))
	if err != nil || len(set.Policies) != 1 || set.Policies[0].Name != "NetworkPolicy default/a" {
		t.Errorf("got %+v, %v", set, err)
	}
}

// TestRefusals has an error with file, line and fix for each kind of fault.
func TestRefusals(t *testing.T) {
	deep := strings.Repeat("[", 60) + strings.Repeat("]", 60)
	for _, c := range []struct {
		name, text string
		line       int
		want       string
	}{
		{"empty", "", 0, "has no policy; write a NetworkPolicy"},
		{"no YAML", "a:\n b: c: d\n", 2, "is neither YAML nor JSON"},
		{"scalar", "hello", 1, "want a policy with apiVersion and kind"},
		{"other kind", "apiVersion: v1\nkind: Pod\n", 2, `kind "Pod" is no policy`},
		{"old version", "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\n", 1, "want networking.k8s.io/v1"},
		{"unknown field", networkPolicy("  podSelector: {}\n  ingres: []\n"), 6, "unknown field spec.ingres, want egress, ingress, podSelector or policyTypes"},
		{"key twice", networkPolicy("  podSelector: {}\n  podSelector: {}\n"), 6, "spec.podSelector is also in line 5"},
		{"wrong type", networkPolicy("  podSelector: []\n"), 5, "spec.podSelector is a list, want a mapping"},
		{"alias", networkPolicy("  podSelector: &a {}\n"), 5, "an anchor or an alias"},
		{"deep", networkPolicy("  podSelector: {}\nmetadata2: " + deep + "\n"), 6, "unknown field metadata2"},
		{"deep status", strings.Replace(ciliumPolicy("  endpointSelector: {}\n  ingress: [{}]\n"), "spec:", "status: "+deep+"\nspec:", 1), 4, "nested deeper than 40"},
		{"bits behind a prefix", networkPolicy("  podSelector: {}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.0.0.1/8}}]\n"), 7, "write 10.0.0.0/8"},
		{"except outside", networkPolicy("  podSelector: {}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]\n"), 7, "except 11.0.0.0/16 is not inside of 10.0.0.0/8"},
		{"port", networkPolicy("  podSelector: {}\n  ingress:\n  - ports: [{port: 70000}]\n"), 7, "port 70000, want 1 to 65535"},
		{"endPort alone", networkPolicy("  podSelector: {}\n  ingress:\n  - ports: [{endPort: 80}]\n"), 7, "endPort is there without port"},
		{"endPort before", networkPolicy("  podSelector: {}\n  ingress:\n  - ports: [{port: 80, endPort: 79}]\n"), 7, "endPort 79, want 80 (port) to 65535"},
		{"protocol", networkPolicy("  podSelector: {}\n  ingress:\n  - ports: [{protocol: ICMP}]\n"), 7, "want TCP, UDP or SCTP"},
		{"rules without type", networkPolicy("  podSelector: {}\n  policyTypes: [Ingress]\n  egress: [{}]\n"), 7, "egress has rules, and policyTypes does not name it"},
		{"selector", networkPolicy("  podSelector: {matchExpressions: [{key: a, operator: Like}]}\n"), 5, "is no selector of labels"},
		{"Cilium entities", ciliumPolicy("  endpointSelector: {}\n  ingress: [{fromEntities: [world]}]\n"), 6, "unknown field spec.ingress[0].fromEntities, want fromCIDR, fromCIDRSet, fromEndpoints or toPorts"},
		{"Cilium without selector", ciliumPolicy("  ingress: [{}]\n"), 5, "has no endpointSelector"},
		{"Cilium L7 without ports", ciliumPolicy("  endpointSelector: {}\n  ingress: [{toPorts: [{rules: {http: [{method: GET}]}}]}]\n"), 6, "no ports"},
		{"line", "source,port,protocol,action\n10.0.0.0/8,80,tcp\n", 2, "has 3 fields"},
		{"line denies", "source,port,protocol,action\n10.0.0.0/8,80,tcp,deny\n", 2, "write what is admitted"},
		{"line of any protocol", "source,port,protocol,action\n10.0.0.0/8,80,any,allow\n", 2, "write a line for tcp and one for udp"},
		{"too long", strings.Repeat("#", 5<<20), 0, "bytes long, want at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := policy.Read("p.yaml", []byte(c.text))
			at := "p.yaml: "
			if c.line > 0 {
				at = fmt.Sprintf("p.yaml:%d: ", c.line)
			}
			if !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s...%s", err, at, c.want)
			}
		})
	}
}

func TestInventoryRefusals(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"unknown key", "i.toml", "[[pod]]\nname = \"a\"\naddress = \"198.19.0.1\"\n", "i.toml:3: unknown key pod.address"},
		{"unknown field", "i.yaml", "pod:\n- {name: a, addresses: [198.19.0.1], ip: x}\n", "i.yaml:2: unknown field pod[0].ip"},
		{"no pod", "i.toml", "", "i.toml: has no pod"},
		{"no address", "i.toml", "\n[[pod]]\nname = \"a\"\n", "i.toml:2: pod \"a\" has no address"},
		{"address twice", "i.yaml", "pod:\n- {name: a, addresses: [198.19.0.1]}\n- {name: b, addresses: [198.19.0.1]}\n", "i.yaml:3: address 198.19.0.1 of pod \"default/b\" is also that of pod \"default/a\""},
		{"wrong label", "i.yaml", "pod:\n- {name: a, labels: {\"-\": x}, addresses: [198.19.0.1]}\n", "i.yaml:2: label -=x"},
		{"name twice", "i.yaml", "pod:\n- {name: a, addresses: [198.19.0.1]}\n- {name: default/a, addresses: [198.19.0.2]}\n", "i.yaml:3: pod \"default/a\" is there twice"},
		{"port", "i.yaml", "pod:\n- {name: a, addresses: [198.19.0.1], ports: {web: 0}}\n", "i.yaml:2: pod \"a\" has port \"web\" = 0"},
		{"no TOML", "i.toml", "[[pod\n", "i.toml:1: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := policy.ReadInventory(c.file, []byte(c.text))
			if !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestNamedPortWithoutPod is refused with the line of its rule.
func TestNamedPortWithoutPod(t *testing.T) {
	set, err := policy.Read("p.yaml", []byte(networkPolicy("  podSelector: {}\n  ingress:\n  - ports: [{port: metrics}]\n")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = policy.NewCluster(set, nil); err == nil || !strings.Contains(err.Error(), "p.yaml:7: NetworkPolicy shop/p names the port \"metrics\"") {
		t.Errorf("got %v", err)
	}
}

// TestListOfEntries reads back what it writes.
func TestListOfEntries(t *testing.T) {
	text := "source,port,protocol,action\n# a.yaml:3\n198.19.0.0/16,8000-8010,tcp,allow\n198.19.0.1/32,0,any,allow\n2001:2::/48,53,udp,allow\n"
	set, err := policy.Read("p.csv", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.NewCluster(set, nil)
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := c.Ingress(nil, false), c.Ingress(nil, true)
	if got := string(policy.WriteList(append(v4.Entries, v6.Entries...))); !strings.Contains(got, "198.19.0.0/16,8000-8010,tcp,allow\n# p.csv:4\n198.19.0.1/32,0,any,allow\n# p.csv:5\n2001:2::/48,53,udp,allow\n") {
		t.Errorf("got %s", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(networkPolicy("  podSelector: {}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]\n    ports: [{port: 80, endPort: 90}]\n")))
	f.Add([]byte(ciliumPolicy("  endpointSelector: {}\n  ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: \"80\"}], rules: {http: [{path: /}]}}]}]\n")))
	f.Add([]byte("source,port,protocol,action\n10.0.0.0/8,80-90,tcp,allow\n"))
	f.Add([]byte(`[{"endpointSelector": {}, "ingress": [{"toPorts": [{"rules": {"HTTP": []}}]}]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := policy.Read("p", data)
		if err != nil {
			if !errors.Is(err, policy.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		c, err := policy.NewCluster(set, nil)
		if err != nil {
			return
		}
		rules := c.Ingress(nil, false)
		for _, e := range rules.Entries {
			if d := c.Decide(policy.Flow{From: e.Source.Addr(), To: netip.MustParseAddr("203.0.113.99"), Proto: e.Proto, Port: e.From}); !d.Allowed && e.Proto != 0 && e.From != 0 {
				t.Errorf("entry %s is denied: %+v", e.Line(), d)
			}
		}
	})
}

func FuzzReadInventory(f *testing.F) {
	f.Add("a.toml", []byte(inventory))
	f.Add("a.yaml", []byte("pod:\n- {name: a, labels: {b: c}, addresses: [198.19.0.1], ports: {web: 80}}\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if _, err := policy.ReadInventory(name, data); err != nil && !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("%v", err)
		}
	})
}
