package campaign

import (
	"fmt"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Refusals that are recorded by the kernel's event, after those that are traced: what they have in
// common shows in a few.
const (
	recordedRefusals = 8
	dropRecording    = "drops"
)

// DropsFile is the raw file with what the kernel's event says of refused attempts.
const DropsFile = "drops.txt"

// refusalSilence is how long a refused attempt must stay unanswered, in seconds: less than the second
// after which the kernel would send it again (TCP_TIMEOUT_INIT in include/net/tcp.h), so that each
// attempt is one packet.
const refusalSilence = 0.4

// trialBundle is the bundle of a trial of a plan: with attempts that are refused at its end, if the
// plan wants them to be traced.
func trialBundle(p *plan.Plan, cell plan.Cell, setup datapath.Setup) (*bundle.Bundle, error) {
	b, err := Bundle(cell, setup)
	if err != nil || p.Spec.Traced == nil || p.Spec.Traced.Refusals == 0 {
		return b, err
	}
	more, err := refusals(setup, p.Spec.Traced.Refusals)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cell.Title(), err)
	}
	b.Steps = append(b.Steps, more...)
	return b, nil
}

// refusals are the steps that have the setup refuse what its proof has it refuse: first between marks,
// so that an observer sees each instruction and nothing else goes on; then once more for the kernel's
// own event, which says the reason.
func refusals(setup datapath.Setup, times int) ([]bundle.Step, error) {
	at, try, ok := Refused(setup)
	if !ok {
		return nil, fmt.Errorf("its policies refuse nothing that its proof tries")
	}
	do := bundle.Refusals{Link: at.Do.(bundle.Probes).Link, Try: try, Times: times, Timeout: refusalSilence, Marked: true} //nolint:forcetypeassert // found by it
	again := do
	again.Times, again.Marked = recordedRefusals, false
	step := func(in string, a bundle.Action) bundle.Step {
		return bundle.Step{Node: at.Node, Phase: bundle.Collect, In: in, Do: a}
	}
	return []bundle.Step{
		step(at.In, do),
		step("", bundle.RecordDrops{Handle: dropRecording, IPv6: setup.Topology.IPv6}),
		step(at.In, again),
		step("", bundle.EndRecord{Handle: dropRecording, Out: DropsFile}),
	}, nil
}

// Refused is the first attempt of a setup's proof that must be denied, with its step.
func Refused(setup datapath.Setup) (at bundle.Step, try bundle.Probe, ok bool) {
	for _, s := range setup.Prove {
		probes, is := s.Do.(bundle.Probes)
		if !is {
			continue
		}
		for _, try := range probes.Tries {
			if try.Want == bundle.Deny && (try.Proto == "" || try.Proto == bundle.TCP) {
				return s, try, true
			}
		}
	}
	return bundle.Step{}, bundle.Probe{}, false
}
