package datapathtest

import (
	"os"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// TestUsersPoliciesOfRequests puts policies of users about requests in force on this kernel, by
// every filter of requests, and holds each to its own proof, whose outcomes the policies say:
// the study's figure 4 and a longer set by the filters that look at sources, and one without
// sources by all.
func TestUsersPoliciesOfRequests(t *testing.T) {
	study, err := os.ReadFile("../../policy/testdata/study.json")
	if err != nil {
		t.Fatal(err)
	}
	const longer = `{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {matchLabels: {id: app1}}, ingress: [
  {fromCIDR: [198.19.9.0/24], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: POST, path: "/orders/.*"}, {method: "GET|HEAD", path: "/a\\.b"}]}}]},
  {fromEndpoints: [{matchLabels: {id: app2}}], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "/public/.*"}, {method: PATCH, path: "/public/item"}]}}]}]}}`
	const open = `{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {matchLabels: {id: app1}}, ingress: [
  {toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "/public"}, {method: GET, path: "/public/.*"}]}}]}]}}`
	rig := Rig{Guest: guestBinary(t), Dir: t.TempDir(), HTTP: httpRoot(t)}
	for _, d := range datapath.Catalog() {
		if d.Application == "" || d.Fabric != datapath.FabricBridge || d.Impossible != "" {
			continue
		}
		sets := map[string]string{"open.yaml": open}
		if d.Filter != l7TC && d.Filter != l7SKSKB && d.Filter != l7SKMSG {
			sets["study.json"], sets["longer.yaml"] = string(study), longer
		}
		for name, text := range sets {
			t.Run(d.Filter+"/"+name, func(t *testing.T) {
				t.Parallel()
				proveOwn(t, rig, d, name, text)
			})
		}
	}
}

// proveOwn applies the policies, proves them, and requires that the proof has a request that is
// admitted and some that are denied.
func proveOwn(t *testing.T, rig Rig, d plan.DatapathEntry, name, text string) {
	t.Helper()
	setup, err := datapath.Render(datapath.OwnCell(d, &plan.Own{
		Files:     []plan.File{{Path: name, Data: []byte(text)}},
		Inventory: plan.File{Path: "pods.yaml", Data: []byte("pod:\n- {name: app1, labels: {id: app1}, addresses: [198.19.3.1]}\n- {name: app2, labels: {id: app2}, addresses: [198.19.3.2]}\n- {name: app3, labels: {id: app3}, addresses: [198.19.3.3]}\n")},
		Server:    "default/app1", Client: "default/app2", Port: 80, Policies: 1,
	}, false))
	if err != nil {
		t.Fatal(err)
	}
	h, err := startHelper(rig)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := h.exec(setup.Files, setup.Apply); err != nil {
		t.Fatal(err)
	}
	reply, err := h.exec(setup.Files, setup.Prove)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range setup.Prove {
		if _, ok := s.Do.(bundle.Requests); !ok {
			continue
		}
		if v := reply.Results[i].Values; v["allowed"] < 1 || v["denied"] < 2 {
			t.Errorf("the proof made requests that ended as %v, want one admitted and two denied at least", v)
		}
	}
}
