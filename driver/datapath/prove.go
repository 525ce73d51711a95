package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"hookbed/bpf"
	"hookbed/driver/bundle"
)

// probeSilence is how long a denied connection must stay unanswered at least, in
// seconds, after the allowed ones, which are tried after it, were answered. An
// answered one takes milliseconds even under emulation, and the drop counter has to
// agree.
const probeSilence = 0.4

// Names of the reads of the filter's counters before and after the probes.
const (
	proveBefore = "prove-before"
	// ProveAfter is the last of them.
	ProveAfter = "prove-after"
)

// prove renders the proof that goes before every trial. The same tuples are
// tried whatever N is: with policies those that no policy admits must be denied
// and seen by the filter's drop counter; with none they must get through, which
// shows that nothing but the policy stops them.
func (r *renderer) prove() {
	t := r.Topology
	server, client := t.Server.Node.Name, t.Client.Node.Name
	tries := r.tries()
	r.proveStep(server, Server, bundle.Listen{Handle: "probe-service", Port: t.Client.Port})
	r.proveStep(server, Server, bundle.Listen{Handle: "probe-other", Port: ForbiddenPort})
	for _, c := range t.More {
		r.proveStep(server, Server, bundle.Listen{Handle: "probe-" + c.Role, Port: c.Port})
	}
	r.sniffProof()
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, proveBefore))
	}
	r.proveFrom(client, tries)
	if len(t.More) > 0 {
		tries = append(tries, r.proveMore()...)
	}
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, ProveAfter))
		r.expectCounters(tries)
	}
	r.expectOuter(tries)
	r.proveStep(server, Server, bundle.Stop{Handle: "probe-service"})
	r.proveStep(server, Server, bundle.Stop{Handle: "probe-other"})
	for _, c := range t.More {
		r.proveStep(server, Server, bundle.Stop{Handle: "probe-" + c.Role})
	}
	r.Prove = append(r.Prove, r.Guards(bundle.Prove)...)
}

// proveFrom lets the client try all, or, where the fabric has an outside, its own address alone and
// the outside the others.
func (r *renderer) proveFrom(node string, tries []bundle.Probe) {
	foreign := func(p bundle.Probe) bool { return r.fabric.outside && p.From != r.Topology.Client.Addr.String() }
	own := slices.DeleteFunc(slices.Clone(tries), foreign)
	r.proveStep(node, Client, bundle.Probes{Link: endpointLink, Timeout: probeSilence, Tries: own})
	if len(own) < len(tries) {
		others := slices.DeleteFunc(slices.Clone(tries), func(p bundle.Probe) bool { return !foreign(p) })
		r.proveStep(r.outsideNode().Name, Outside, bundle.Probes{Link: endpointLink, Timeout: probeSilence, Tries: others})
	}
}

// proveMore lets the further clients try at once, and returns what they try.
func (r *renderer) proveMore() (tries []bundle.Probe) {
	node := r.Topology.Client.Node.Name
	var all []bundle.Step
	for _, c := range r.Topology.More {
		own := r.clientTries(c)
		tries = append(tries, own...)
		all = append(all, bundle.Step{Node: node, Phase: bundle.Prove, In: c.Role, Do: bundle.Probes{Link: endpointLink, Timeout: probeSilence, Tries: own}})
	}
	r.proveStep(node, "", bundle.Parallel{Steps: all})
	return tries
}

func (r *renderer) proveStep(node, in string, do bundle.Action) {
	r.Prove = append(r.Prove, bundle.Step{Node: node, Phase: bundle.Prove, In: in, Do: do})
}

// verdict is what the policies say of a source that they do or do not name, on
// a port that the source's policy names or not.
func (ps policies) verdict(named, servicePort bool) string {
	hit := named && (servicePort || ps.kind == policyL3)
	if ps.size() == 0 || hit != ps.deny {
		return bundle.Allow
	}
	return bundle.Deny
}

// try is a probe of the server from a source that the policies name or not.
func (r *renderer) try(what, from string, port int, named bool) bundle.Probe {
	return bundle.Probe{What: what, From: from, To: r.Topology.Server.Addr.String(), Port: port, Want: r.policies.verdict(named, port != ForbiddenPort)}
}

// tries are those of the first client, which also sends from the sources that
// no endpoint has.
func (r *renderer) tries() []bundle.Probe {
	ps, t := r.policies, r.Topology
	if ps.own != nil {
		return r.ownTries()
	}
	client, unlisted := t.Client.Addr.String(), unlistedSource(t.IPv6).String()
	tries := []bundle.Probe{
		r.try("client", client, t.Client.Port, ps.admits()),
		r.try("source no policy names", unlisted, t.Client.Port, false),
		r.try("port no policy names", client, ForbiddenPort, ps.admits()),
	}
	if p, number, ok := ps.middle(); ok {
		from := lastAddr(p).String()
		tries = append(tries,
			r.try(fmt.Sprintf("policy %d's source", number), from, ServicePort, true),
			r.try(fmt.Sprintf("policy %d's source, other port", number), from, ForbiddenPort, true))
	}
	return tries
}

// clientTries are those of a further client: its own policy, and a port that it
// does not name.
func (r *renderer) clientTries(c Endpoint) []bundle.Probe {
	from, admitted := c.Addr.String(), r.policies.admits()
	return []bundle.Probe{
		r.try(c.Role, from, c.Port, admitted),
		r.try(c.Role+", port no policy names", from, ForbiddenPort, admitted),
	}
}

// lastAddr is the last address of a policy's source: of a prefix not the one
// that a filter of whole addresses would find.
func lastAddr(p bpf.Policy) netip.Addr {
	b := p.Source.Addr().AsSlice()
	for i := p.Source.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// expectCounters requires that the filter's own counters agree with the probes, and
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
	expect := func(what, key string, least uint64) {
		r.proveStep(r.Hook.Node, "", bundle.Expect{What: what, Read: ProveAfter, Since: proveBefore, Key: key, Op: bundle.AtLeast, Value: least})
	}
	if denied > 0 {
		expect("denied probes are dropped by the filter", bundle.CountDropped, denied)
	}
	if r.policies.size() > 0 {
		expect("allowed probes pass the filter", r.admits, allowed)
	} else {
		expect("probes pass the hook", bundle.CountPackets, allowed+denied)
	}
	for _, e := range r.realised {
		e.Read = ProveAfter
		r.proveStep(r.Hook.Node, "", e)
	}
}
