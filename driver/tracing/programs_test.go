package tracing

import (
	"testing"

	"hookbed/analysis/trace"
	"hookbed/driver/plan"
	"hookbed/driver/reduce"
)

func TestEndsOfWorkloads(t *testing.T) {
	p := tracedPlan(t, plan.Choice{})
	for workload, want := range map[string][2]string{"TCP_RR": {"netperf", "netserver"}, "TCP_CRR": {"netperf", "netserver"}, "TCP_STREAM": {"iperf3", "iperf3"}} {
		cell := p.Cells[0]
		cell.Factors = map[string]string{}
		for k, v := range p.Cells[0].Factors {
			cell.Factors[k] = v
		}
		cell.Factors[plan.FactorWorkload], cell.Factors[plan.FactorDuration] = workload, "1s"
		client, server, err := endsOf(cell)
		if err != nil || [2]string{client, server} != want {
			t.Errorf("%s runs between %s and %s, %v, want %v", workload, client, server, err, want)
		}
	}
}

func TestRolesOfPrograms(t *testing.T) {
	files := map[string][]byte{"/init": nil, "/ep/bin/netperf": nil, "/ep/bin/netserver": nil, "/ep/bin/iperf3": nil, "/ep/bin/busybox": nil, "/ep/lib/libc.so.6": nil}
	roles := func(client, server string) map[string]reduce.Program {
		out := map[string]reduce.Program{}
		for _, p := range programs(files, "/init", client, server) {
			out[p.Name] = p
		}
		return out
	}
	rr := roles("netperf", "netserver")
	for name, want := range map[string]string{helperName: trace.RoleHelper, "netperf": trace.RoleClient, "netserver": trace.RoleServer} {
		if p, ok := rr[name]; !ok || p.Role != want || p.Shared || p.Of != "" {
			t.Errorf("%s is %+v, want the role %q", name, p, want)
		}
	}
	if lib := rr["libc.so.6"]; !lib.Shared || len(rr) != 4 {
		t.Errorf("programs %v, want the helper, both ends, and the library that none of these files names", rr)
	}
	if p := roles("iperf3", "iperf3")["iperf3"]; p.Role != reduce.Ends {
		t.Errorf("iperf3 is %+v, want both ends", p)
	}
}

// Every workload is traced or refused by name.
func TestSupported(t *testing.T) {
	p := tracedPlan(t, plan.Choice{})
	if err := Supported(p); err != nil {
		t.Error(err)
	}
	for factor, level := range map[string]string{plan.FactorWorkload: "UDP_RR", plan.FactorClients: "4", plan.FactorStreams: "8"} {
		p := tracedPlan(t, plan.Choice{})
		p.Cells[1].Factors[factor] = level
		if err := Supported(p); err == nil {
			t.Errorf("%s %s is said to be traceable", factor, level)
		}
	}
}
