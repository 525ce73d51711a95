package tracing

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/analysis/trace"
	"hookbed/driver/plan"
	"hookbed/driver/reduce"
)

// cut is how a workload's window is cut into units of work.
type cut struct {
	workload string
	unit     string
	at       reduce.Cut
}

// cuts are the workloads that can be traced: a unit begins with a system call of the client, which
// depends on its program (netperf, src/nettest_bsd.c; iperf3, src/iperf_tcp.c).
func cuts() []cut {
	return []cut{
		{"TCP_RR", trace.UnitTransaction, reduce.Cut{Call: "__x64_sys_sendto"}},
		{"TCP_CRR", trace.UnitConnection, reduce.Cut{Call: "__x64_sys_connect"}},
		// iperf3 writes 128 KiB at once, eight times a MiB.
		// What is received a second, it computes from when the server starts its streams to when it sums
		// up for the last time (src/iperf_api.c).
		{"TCP_STREAM", trace.UnitMiB, reduce.Cut{Call: "__x64_sys_write", Every: 8, From: "iperf_init_test", To: "iperf_stats_callback"}},
	}
}

func cutOf(workload string) (cut, bool) {
	for _, c := range cuts() {
		if c.workload == workload {
			return c, true
		}
	}
	return cut{}, false
}

// Supported refuses a plan with workloads that cannot be cut into units.
func Supported(p *plan.Plan) error {
	var can []string
	for _, c := range cuts() {
		can = append(can, c.workload)
	}
	for _, c := range p.Cells {
		if w := c.Get(plan.FactorWorkload); !slices.Contains(can, w) {
			return fmt.Errorf("%s cannot be traced: where its client begins a unit of work is not said; leave it out with --only 'workload!=%s' (can be: %s)", w, w, strings.Join(can, ", "))
		}
		if n := c.Get(plan.FactorClients); n != "" && n != "1" {
			return fmt.Errorf("%s clients at once cannot be traced, whose transactions mix; leave them out with --only clients=1", n)
		}
		if n := c.Get(plan.FactorStreams); n != "" && n != "1" {
			return fmt.Errorf("%s streams at once cannot be traced, whose MiB mix; leave them out with --only streams=1", n)
		}
	}
	return nil
}

// RefusalReducers makes the observers of the refused attempts behind a cell's workload: the helper is
// their client, and an attempt begins where it connects.
func RefusalReducers(files map[string][]byte, helper string) func(plan.Cell) (Observer, error) {
	return func(cell plan.Cell) (Observer, error) {
		_, server, err := endsOf(cell)
		if err != nil {
			return nil, err
		}
		list := programs(files, helper, "", server)
		for i := range list {
			if list[i].Role == trace.RoleHelper {
				list[i].Role = trace.RoleClient
			}
		}
		return reduce.New(reduce.Config{
			Programs: list, Cut: reduce.Cut{Call: "__x64_sys_connect"}, Unit: trace.UnitAttempt, NSPerInstruction: plan.InstructionNanoseconds,
		}), nil
	}
}

// Reducers makes the observers of a plan's cells. files are the programs of its guests by path, of
// which helper is the guest helper.
func Reducers(p *plan.Plan, files map[string][]byte, helper string) func(plan.Cell) (Observer, error) {
	return func(cell plan.Cell) (Observer, error) {
		c, ok := cutOf(cell.Get(plan.FactorWorkload))
		if !ok {
			return nil, Supported(p)
		}
		client, server, err := endsOf(cell)
		if err != nil {
			return nil, err
		}
		return reduce.New(reduce.Config{
			Programs: programs(files, helper, client, server), Cut: c.at, Unit: c.unit,
			Units: p.Spec.Traced.Window, NSPerInstruction: plan.InstructionNanoseconds,
		}), nil
	}
}
