package plan

import (
	"strings"
	"testing"
)

// requestCatalog has a workload that makes requests, by number only, and a datapath that judges
// them.
func requestCatalog() Catalog {
	cat := testCatalog()
	cat.Workloads = append(cat.Workloads, WorkloadEntry{Name: "HTTP", Protocol: "tcp", Counts: true, OnlyCounts: true, MostCount: 5000, Application: "http"})
	cat.Datapaths = append(cat.Datapaths, DatapathEntry{Name: "judge", Fabric: "bridge", Filter: "judge", Protocols: []string{"tcp"}, Application: "http"})
	return cat
}

// TestRequestsAreCounted: a workload without a duration needs a number of requests, which is
// bounded; and what judges requests is refused for a workload that makes none.
func TestRequestsAreCounted(t *testing.T) {
	text := func(measure, workloads, datapath string) string {
		return strings.NewReplacer("[measure]\n", "[measure]\n"+measure, `workloads = ["TCP_RR"]`, "workloads = ["+workloads+"]", `datapath = "docker"`, `datapath = "`+datapath+`"`).Replace(good)
	}
	for _, tc := range []struct{ measure, workloads, datapath, want string }{
		{"count = { HTTP = 5000 }\n", `"HTTP"`, "judge", ""},
		{"count = { HTTP = 5000 }\n", `"HTTP", "TCP_RR"`, "docker", ""},
		{"", `"HTTP"`, "judge", `matrix.workloads: "HTTP" is measured by a number of requests; write count = { HTTP = 10000 } in [measure]`},
		{"count = { HTTP = 5001 }\n", `"HTTP"`, "judge", "measure.count.HTTP: 5001 is out of range, want 1 to 5000"},
		{"", `"TCP_RR"`, "judge", `"judge" judges requests of http, and workload "TCP_RR" makes none`},
		{"count = { HTTP = 5000 }\n", `"HTTP", "TCP_RR"`, "judge", `"judge" judges requests of http, and workload "TCP_RR" makes none`},
	} {
		_, err := Parse("t.toml", []byte(text(tc.measure, tc.workloads, tc.datapath)), requestCatalog())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %s %s: %v, want %q", tc.measure, tc.workloads, tc.datapath, err, tc.want)
		}
	}
}
