package datapath

import (
	"strconv"

	"hookbed/driver/bundle"
)

// probeSilence is how long a denied connection must stay unanswered, in
// seconds. An answered one takes milliseconds even under emulation, and the
// drop counter has to agree.
const probeSilence = 0.4

// prove renders the proof that goes before every trial. The same tuples are
// tried whatever N is: with policies the unlisted source and the unnamed port
// must be denied and seen by the filter's drop counter; with none they must
// get through, which shows that nothing but the policy stops them.
func (r *renderer) prove() {
	t := r.Topology
	server, client := t.Server.Node.Name, t.Client.Node.Name
	tries := r.tries()
	r.proveStep(server, Server, bundle.Listen{Handle: "probe-service", Port: ServicePort})
	r.proveStep(server, Server, bundle.Listen{Handle: "probe-other", Port: ForbiddenPort})
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, "prove-before"))
	}
	r.proveStep(client, Client, bundle.Probes{Link: endpointLink, Timeout: probeSilence, Tries: tries})
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, "prove-after"))
		r.expectCounters(tries)
	}
	r.proveStep(server, Server, bundle.Stop{Handle: "probe-service"})
	r.proveStep(server, Server, bundle.Stop{Handle: "probe-other"})
}

func (r *renderer) proveStep(node, in string, do bundle.Action) {
	r.Prove = append(r.Prove, bundle.Step{Node: node, Phase: bundle.Prove, In: in, Do: do})
}

func (r *renderer) tries() []bundle.Probe {
	to := r.Topology.Server.Addr.String()
	verdict := bundle.Deny
	if len(r.policies) == 0 {
		verdict = bundle.Allow
	}
	tries := []bundle.Probe{
		{What: "client", From: r.Topology.Client.Addr.String(), To: to, Port: ServicePort, Want: bundle.Allow},
		{What: "source no policy names", From: unlistedSource().String(), To: to, Port: ServicePort, Want: verdict},
		{What: "port no policy names", From: r.Topology.Client.Addr.String(), To: to, Port: ForbiddenPort, Want: verdict},
	}
	if n := len(r.policies); n > 1 {
		mid := r.policies[(n-1)/2].source.String()
		tries = append(tries,
			bundle.Probe{What: "policy " + strconv.Itoa((n-1)/2+1) + "'s source", From: mid, To: to, Port: ServicePort, Want: bundle.Allow},
			bundle.Probe{What: "policy " + strconv.Itoa((n-1)/2+1) + "'s source, other port", From: mid, To: to, Port: ForbiddenPort, Want: bundle.Deny})
	}
	return tries
}

// expectCounters asks the filter's own counters to agree with the probes, and
// its size in the kernel with the policies.
func (r *renderer) expectCounters(tries []bundle.Probe) {
	var allowed, denied uint64
	for _, p := range tries {
		if p.Want == bundle.Allow {
			allowed++
		} else {
			denied++
		}
	}
	expect := func(e bundle.Expect) { r.proveStep(r.Hook.Node, "", e) }
	if denied > 0 {
		expect(bundle.Expect{What: "denied probes are dropped by the filter", Read: "prove-after", Since: "prove-before", Key: "dropped", Op: bundle.AtLeast, Value: denied})
		expect(bundle.Expect{What: "allowed probes pass the filter", Read: "prove-after", Since: "prove-before", Key: "accepted", Op: bundle.AtLeast, Value: allowed})
	} else {
		expect(bundle.Expect{What: "probes pass the hook", Read: "prove-after", Since: "prove-before", Key: "packets", Op: bundle.AtLeast, Value: allowed})
	}
	for _, e := range r.realised {
		e.Read = "prove-after"
		expect(e)
	}
}
