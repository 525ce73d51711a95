// Command mine writes the policies of experiments/mine.toml, as a platform of thirty teams
// has them: 300 NetworkPolicies, and the inventory of their pods. The same program writes
// the same files.
//
//	go run ./experiments/mine experiments/mine
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const teams = 30

// apps are those of every team.
func apps() []string {
	return []string{"web", "api", "worker", "billing", "search", "mail", "reports", "sync"}
}

// store is a data store that all teams share, and how many of their apps may use it.
type store struct {
	name, port string
	number     int
	users      int
}

func stores() []store {
	return []store{{"users", "sql", 5432, 43}, {"cache", "redis", 6379, 25}, {"orders", "sql", 5432, 80}}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mine:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one directory, got %d arguments", len(args))
	}
	for name, text := range files() {
		if err := os.WriteFile(filepath.Join(args[0], name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files are the contents by name.
func files() map[string]string {
	return map[string]string{"policies.yaml": policies(), "pods.toml": inventory()}
}

func team(i int) string { return fmt.Sprintf("team-%02d", i+1) }

// policies are five of each team and those of the shared namespaces.
func policies() string {
	var b strings.Builder
	b.WriteString("# Written by go run ./experiments/mine experiments/mine\n")
	for i := range teams {
		ofTeam(&b, team(i))
	}
	data(&b)
	return b.String()
}

func document(b *strings.Builder, namespace, name, spec string) {
	fmt.Fprintf(b, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: %s\n  namespace: %s\nspec:\n%s", name, namespace, spec)
}

func ofTeam(b *strings.Builder, ns string) {
	document(b, ns, "default-deny", "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n")
	document(b, ns, "same-namespace", `  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {}
  egress:
  - to:
    - podSelector: {}
`)
	document(b, ns, "web-from-load-balancers", `  podSelector:
    matchLabels: {app: web}
  ingress:
  - from:
    - ipBlock:
        cidr: 198.19.224.0/20
        except: [198.19.230.0/24]
    - namespaceSelector:
        matchLabels: {role: ingress}
    ports:
    - port: 8080
      endPort: 8089
`)
	document(b, ns, "scraped", `  podSelector: {}
  ingress:
  - from:
    - namespaceSelector:
        matchLabels: {role: monitoring}
    ports:
    - port: metrics
`)
	document(b, ns, "to-data-and-names", `  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector:
        matchLabels: {role: data}
    ports:
    - port: 5432
    - port: 6379
  - ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
`)
}

// data is who may use the stores: apps of teams, drawn by a fixed seed.
func data(b *strings.Builder) {
	document(b, "data", "default-deny", "  podSelector: {}\n")
	document(b, "data", "scraped", `  podSelector: {}
  ingress:
  - from:
    - namespaceSelector:
        matchLabels: {role: monitoring}
    ports:
    - port: metrics
`)
	rng := rand.New(rand.NewPCG(0x6d_69_6e_65, 300))
	for _, s := range stores() {
		pairs := rng.Perm(teams * len(apps()))[:s.users]
		for _, p := range pairs {
			ns, app := team(p/len(apps())), apps()[p%len(apps())]
			document(b, "data", fmt.Sprintf("%s-for-%s-%s", s.name, ns, app), fmt.Sprintf(`  podSelector:
    matchLabels: {store: %s}
  ingress:
  - from:
    - namespaceSelector:
        matchLabels: {team: %s}
      podSelector:
        matchLabels: {app: %s}
    ports:
    - port: %s
`, s.name, ns, app, s.port))
		}
	}
}

// inventory has two or three pods of each app, the stores, and what scrapes and balances.
func inventory() string {
	var b strings.Builder
	b.WriteString("# Written by go run ./experiments/mine experiments/mine\n")
	rng := rand.New(rand.NewPCG(0x70_6f_64_73, 300))
	for _, role := range []string{"data", "monitoring", "ingress"} {
		fmt.Fprintf(&b, "\n[[namespace]]\nname = %q\nlabels = { role = %q }\n", role, role)
	}
	for i := range teams {
		fmt.Fprintf(&b, "\n[[namespace]]\nname = %q\nlabels = { team = %q }\n", team(i), team(i))
	}
	pod := func(name, labels, address, ports string) {
		fmt.Fprintf(&b, "\n[[pod]]\nname = %q\nlabels = { %s }\naddresses = [%q]\nports = { %s }\n", name, labels, address, ports)
	}
	for i := range teams {
		host := 0
		for _, app := range apps() {
			for k := range 2 + rng.IntN(2) {
				host++
				pod(fmt.Sprintf("%s/%s-%d", team(i), app, k), fmt.Sprintf("app = %q", app), fmt.Sprintf("198.19.%d.%d", i+1, host), "metrics = 9090")
			}
		}
	}
	for i, s := range stores() {
		pod("data/"+s.name, fmt.Sprintf("store = %q", s.name), fmt.Sprintf("198.19.100.%d", i+1), fmt.Sprintf("%s = %d, metrics = 9187", s.port, s.number))
	}
	for i := range 2 {
		pod(fmt.Sprintf("monitoring/scraper-%d", i), `app = "scraper"`, fmt.Sprintf("198.19.101.%d", i+1), "metrics = 9090")
		pod(fmt.Sprintf("ingress/balancer-%d", i), `app = "balancer"`, fmt.Sprintf("198.19.102.%d", i+1), "metrics = 9090")
	}
	return b.String()
}
