//go:build cilium

package datapathtest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// requestsLimit is how long the agent has to put policies in force that it cannot enforce, in
// seconds: many times what it takes for those that it can.
const requestsLimit = 90

// TestCiliumRequestsWithoutEnvoy gives the agent policies of HTTP requests, which it cannot enforce
// without Envoy: with its proxy switched off it refuses them, and with the proxy on it waits for an
// Envoy that never comes. Either way everything gets through meanwhile, so the step must fail and
// nothing be measured.
func TestCiliumRequestsWithoutEnvoy(t *testing.T) {
	roots := agentRoots(t)
	arms := OfCilium(datapath.Catalog())
	at := slices.IndexFunc(arms, func(a Arm) bool { return a.plain() && a.Scenario == plan.Localhost })
	for name, flags := range map[string][]string{
		"proxy off": nil,
		"proxy on":  {"--enable-l7-proxy=true", "--disable-envoy-version-check=true"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{t: t, rig: Rig{Guest: guestBinary(t), Dir: t.TempDir(), Roots: roots, Silence: *silenceFlag}, arm: arms[at]}
			defer b.end()
			if err := b.begin(); err != nil {
				t.Fatal(err)
			}
			set, err := render(arms[at].Cell(mainPolicies))
			if err != nil {
				t.Fatal(err)
			}
			set.Files["policies.yaml"] = withRequests(t, set.Files["policies.yaml"])
			_, err = b.h.exec(set.Files, withFlags(set.Apply, flags))
			if err == nil {
				t.Fatal("policies of requests were in force without Envoy")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), "wait until the policies are in force") {
				t.Error("it failed for another reason")
			}
		})
	}
}

// withRequests are policies that admit some requests alone.
func withRequests(t *testing.T, policies bundle.File) bundle.File {
	t.Helper()
	var file map[string]any
	if err := json.Unmarshal(policies.Data, &file); err != nil {
		t.Fatal(err)
	}
	for _, spec := range file["specs"].([]any) {
		for _, in := range spec.(map[string]any)["ingress"].([]any) {
			for _, to := range in.(map[string]any)["toPorts"].([]any) {
				to.(map[string]any)["rules"] = map[string]any{"http": []any{map[string]any{"method": "GET", "path": "/public.*"}}}
			}
		}
	}
	data, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return bundle.NewFile(data)
}

// withFlags gives the agent flags after its others, and policies less time.
func withFlags(steps []bundle.Step, flags []string) []bundle.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		switch do := s.Do.(type) {
		case bundle.Daemon:
			if do.Root == bundle.RootCilium {
				do.Argv = slices.Concat(do.Argv, flags)
				steps[i].Do = do
			}
		case bundle.CiliumPolicies:
			do.Timeout = requestsLimit
			steps[i].Do = do
		}
	}
	return steps
}
