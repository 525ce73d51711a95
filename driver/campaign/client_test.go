package campaign

import (
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/lab"
	"hookbed/driver/workload"
)

func outcome(do bundle.Action, values map[string]float64) lab.Outcome {
	return lab.Outcome{Step: bundle.Step{Do: do}, StepResult: bundle.StepResult{Values: values}}
}

// TestStoppedClient: a client that was stopped, alone or among others, and not one
// that warmed up before.
func TestStoppedClient(t *testing.T) {
	stop := map[string]float64{"stops": 1, "stopped_seconds": 0.5}
	client, warmup := bundle.Exec{Argv: []string{"netperf"}, Out: "result.txt"}, bundle.Exec{Argv: []string{"netperf"}}
	several := bundle.Parallel{Steps: []bundle.Step{{Do: client}, {Do: client}}}
	for _, tc := range []struct {
		step lab.Outcome
		want string
	}{
		{outcome(client, stop), "the client was stopped for 0.5 s"},
		{outcome(several, stop), "the client was stopped for 0.5 s"},
		{outcome(client, nil), ""},
		{outcome(warmup, stop), ""},
		{outcome(bundle.Parallel{Steps: []bundle.Step{{Do: warmup}}}, stop), ""},
		{outcome(bundle.Parallel{Steps: []bundle.Step{{Do: bundle.Probes{}}}}, stop), ""},
	} {
		if got := stopped(lab.Execution{Steps: []lab.Outcome{tc.step}}); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.step, got, tc.want)
		}
	}
}

func TestHollow(t *testing.T) {
	hole := workload.Hole{Seconds: 0.5, Why: "one transaction took 0.5 s"}
	mean := workload.Hole{Seconds: 0.5, Why: "the mean is above the 99th percentile", Resent: true}
	lost := []workload.Metric{{Name: "tcp_retrans.client_node", Value: 0}, {Name: "tcp_retrans.server_node", Value: 2}}
	for _, tc := range []struct {
		hole    workload.Hole
		waited  float64
		known   bool
		metrics []workload.Metric
		want    bool
	}{
		{hole, 0.1, true, nil, true},
		{hole, 0.3, true, nil, false},
		{hole, 0, false, nil, false},
		{workload.Hole{Seconds: 9}, 0, true, nil, false},
		{hole, 0.1, true, lost, true},
		{mean, 0.1, true, lost, false},
		{mean, 0.1, true, lost[:1], true},
	} {
		if got := hollow(tc.hole, tc.waited, tc.known, tc.metrics); (got != "") != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// TestUnlikeOthers compares a trial with four others of its cell.
func TestUnlikeOthers(t *testing.T) {
	o := others{}
	for _, u := range []use{{true, 0.50, 0.02, 0.1}, {true, 0.52, 0.03, 0.12}, {true, 0.48, 0.02, 0.11}} {
		o.add("c", u)
	}
	odd := use{true, 0.1, 0.02, 0.1}
	if got := o.unlike("c", odd); got != "" {
		t.Errorf("of three others: %q", got)
	}
	o.add("c", use{})
	if got := o.unlike("c", odd); got != "" {
		t.Errorf("of three others and one that nothing is known of: %q", got)
	}
	o.add("c", use{true, 0.51, 0.02, 0.1})
	for _, tc := range []struct {
		what string
		use  use
		want string
	}{
		{"alike", use{true, 0.50, 0.02, 0.1}, ""},
		{"half, as where request and response find another rhythm", use{true, 0.25, 0.02, 0.1}, ""},
		{"a fifth", odd, "the client used 0.1 s of CPU time a second, in the cell's 4 others 0.505 s"},
		{"four times", use{true, 2, 0.02, 0.1}, "the client used 2 s"},
		{"a fifth, beside other programs", use{true, 0.1, 0.02, 0.9}, ""},
		{"longer", use{true, 0.5, 2, 0.1}, "the client ran 2 s besides what it measured, in the cell's 4 others 0.02 s"},
		{"shorter than it measured", use{true, 0.5, -3, 0.1}, "the client ran -3 s besides"},
		{"a little longer", use{true, 0.5, 0.9, 0.1}, ""},
		{"unknown", use{}, ""},
	} {
		if got := o.unlike("c", tc.use); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
	}
	if got := o.unlike("another", odd); got != "" {
		t.Errorf("of another cell: %q", got)
	}
	for i := range 4 { // others that differ among themselves
		o.add("wide", use{true, 0.1 * float64(1+3*i), 0.02, 0.1})
	}
	if got := o.unlike("wide", use{true, 0.08, 0.02, 0.1}); got != "" {
		t.Errorf("of others that differ: %q", got)
	}
}
