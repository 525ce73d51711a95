package campaign

import (
	"time"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Overheads that estimates add to the measured time, from runs under emulation. The progress bar
// corrects them as it goes.
const (
	setupOverhead      = 5 * time.Second
	trialOverhead      = 3 * time.Second
	localSetupOverhead = 300 * time.Millisecond
	localTrialOverhead = 600 * time.Millisecond
)

// Costs of virtual time. A second of the guest's own time takes sealedPace seconds of wall time. Its
// overheads are in its own time, the boot is in wall time.
const (
	sealedPace          = 1.5 // wall seconds for a virtual second
	sealedBoot          = 15 * time.Second
	sealedSetupOverhead = time.Second
	sealedTrialOverhead = time.Second
)

// What a trace costs in addition, in wall time: the plugin, symbols and programs of each boot, and
// the pace of what is measured, every block of which is written, read and reduced. From the CPU
// time of boots with and without a trace, TCP_RR and TCP_STREAM.
const (
	tracedBoot = 4 * time.Second
	tracedPace = 14 // more wall seconds for a virtual second
)

// What agents of Cilium add to each setup, because they compile their programs in it: from runs of
// one cell on two CPUs with other work on them (docs/cilium.md, "What was run"). With accel = "auto"
// a machine counts as emulated, as it does above.
const (
	agentHere         = 30 * time.Second  // on a CPU, 20 to 32 s in both scenarios
	agentEmulated     = 510 * time.Second // localhost: 481 s until the endpoints are ready, 26 s for the policies
	agentEmulatedMore = agentEmulated     // multi-host, in addition; not measured: as much again on the same CPUs
)

// agents is how long the agents of Cilium take in a whole plan.
func agents(p *plan.Plan) (all time.Duration) {
	lab := p.Spec.Lab
	for _, scenario := range []string{plan.Localhost, plan.MultiHost} {
		one := agentHere
		if lab.Capabilities().VMs && lab.Accel != plan.AccelKVM {
			one = agentEmulated
			if scenario == plan.MultiHost {
				one += agentEmulatedMore
			}
		}
		setups := p.SetupsOf(func(c plan.Cell) bool {
			return datapath.NeedsCilium(c) && c.Get(plan.FactorScenario) == scenario
		})
		all += time.Duration(setups) * one
	}
	return all
}

// Estimate is how long an experiment takes, in wall time. jobs is the number of guests at once and
// matters in virtual time only. With a stopping rule the estimate is the upper limit.
func Estimate(p *plan.Plan, jobs int) time.Duration {
	switch {
	case p.Spec.Lab.Clock == plan.ClockVirtual:
		virtual := p.Estimate(sealedSetupOverhead, sealedTrialOverhead)
		all := time.Duration(sealedPace * float64(virtual))
		block := sealedBoot
		if p.Spec.Traced != nil {
			all += tracedPace * p.Measuring()
			block += tracedBoot
		}
		block += all / time.Duration(len(p.Blocks))
		return time.Duration((len(p.Blocks)+jobs-1)/jobs) * block
	case p.Spec.Lab.Capabilities().Here():
		return p.Estimate(localSetupOverhead, localTrialOverhead) + agents(p)
	}
	return p.Estimate(setupOverhead, trialOverhead) + agents(p)
}
