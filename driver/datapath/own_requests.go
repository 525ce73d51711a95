package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
	"hookbed/driver/policy"
)

// requestHolding is what a filter of requests can hold of policies that users write.
type requestHolding struct {
	sources   bool // else every source only
	anyMethod bool // also with a path; else the method must be named
	longest   int  // bytes that a request begins with; 0 is any number
}

// mostSearched is the longest text that xt_string searches for, in bytes
// (XT_STRING_MAX_PATTERN_SIZE in the kernel's include/uapi/linux/netfilter/xt_string.h).
const mostSearched = 128

func requestHoldingOf(filter string) requestHolding {
	switch filter {
	case filterL7HAProxy, filterL7Nginx:
		return requestHolding{sources: true, anyMethod: true}
	case filterL7Nft:
		return requestHolding{sources: true, longest: 16 * nftWidth}
	case filterL7String:
		return requestHolding{sources: true, longest: mostSearched}
	}
	return requestHolding{longest: bpf.RequestBytes}
}

// lower writes what an endpoint admits as policies of requests to a port. Its error names the
// policy, its file and line, and what to write instead.
func (h requestHolding) lower(entries []policy.Entry, port uint16) ([]RequestPolicy, error) {
	var out []RequestPolicy
	for _, e := range entries {
		some, why := h.each(e, port)
		if why != "" {
			return nil, fmt.Errorf("%w: %s: %s: %s", ErrCannotHold, e.At, e.Policy, why)
		}
		for _, p := range some {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// each is one entry as the filter has it, or why it cannot.
func (h requestHolding) each(e policy.Entry, port uint16) (out []RequestPolicy, why string) {
	served := e.Proto == policy.ProtoAny || e.Proto == policy.ProtoTCP && (e.From == 0 || e.From <= port && port <= e.To)
	anywhere := e.Source.Bits() == 0
	switch {
	case !served:
		return nil, fmt.Sprintf("it admits %s, and this filter judges requests to port %d alone; remove it, or measure another server", e.Ports(), port)
	case !h.sources && !anywhere:
		return nil, fmt.Sprintf("it admits %s alone, and this filter does not look at sources; write filter = %q", e.Source, filterL7HAProxy)
	}
	source := e.Source
	if anywhere {
		source = netip.Prefix{}
	}
	for _, one := range or(e.HTTP, policy.HTTP{}) {
		requests, why := one.Requests()
		if why != "" {
			return nil, why
		}
		for _, q := range requests {
			p := RequestPolicy{Method: q.Method, Prefix: q.Path, Exact: q.Exact && q.Path != "", Source: source}
			if why := h.cannot(p); why != "" {
				return nil, why
			}
			out = append(out, p)
		}
	}
	return out, ""
}

// or is a list, or one element where there is none.
func or[E any](list []E, one E) []E {
	if list == nil {
		return []E{one}
	}
	return list
}

func (h requestHolding) cannot(p RequestPolicy) string {
	switch text := p.text(); {
	case text == "" && !h.sources:
		return fmt.Sprintf("it admits every request, and this filter finds how one begins; write rules of http, or filter = %q", filterL7HAProxy)
	case p.Method == "" && p.Prefix != "" && !h.anyMethod:
		return fmt.Sprintf("it names the path %q and no method, and this filter finds how a request begins, which is its method; write method, or filter = %q", p.Prefix, filterL7HAProxy)
	case h.longest > 0 && len(text) > h.longest:
		return fmt.Sprintf("%q has %d bytes, and this filter compares %d; write a shorter path, or filter = %q", text, len(text), h.longest, filterL7HAProxy)
	}
	return ""
}

// ownRequests are the user's policies as a cell's filter of requests holds them.
func (ps *policies) ownRequests(filter string) error {
	if ps.own.cluster != nil && ps.own.inPlace {
		return fmt.Errorf("%w: it judges requests, and what is asked is about connections", ErrCannotHold)
	}
	var err error
	ps.requests, err = requestHoldingOf(filter).lower(ps.own.rules.Entries, ps.own.port)
	return err
}

// admitsRequest is what the policies say of a request to the server, as they are written.
func (o own) admitsRequest(from netip.Addr, to Endpoint, method, path string) bool {
	d := o.cluster.Decide(policy.Flow{From: from, To: to.Addr, Proto: policy.ProtoTCP, Port: o.port})
	return d.AdmitsRequest(method, path)
}

// ownPath is the path that the workload requests where users wrote policies: what the last
// entry that admits the client admits. ok is false if any request is as good.
func ownPath(cell plan.Cell) (path string, ok bool) {
	if cell.Own == nil {
		return "", false
	}
	t := Layout(cell)
	o, err := ownOf(cell.Own, t)
	if err != nil {
		return "", false // Render has said so
	}
	for _, e := range slices.Backward(o.rules.Entries) {
		if _, served := (policy.Rules{Isolated: true, Entries: []policy.Entry{e}}).Admits(t.Client.Addr, protoTCP, o.port); !served || e.HTTP == nil {
			continue
		}
		if path, ok := policy.ExampleGET(e.HTTP); ok {
			return path, true
		}
	}
	return "", false
}

// unlistedPath is one that no policy of users should admit.
const unlistedPath = "/named-by-no-policy"

// unusableRequests says why a cell of these policies would measure or prove nothing, "" if it
// would.
func (ps policies) unusableRequests(cell plan.Cell, t Topology) string {
	path := RequestPath(cell)
	switch {
	case !ps.own.admitsRequest(t.Client.Addr, t.Server, "GET", path):
		return fmt.Sprintf("they admit no GET of the client at port %d, which the workload makes; admit one, or choose another client", ps.port)
	case ps.own.admitsRequest(t.Client.Addr, t.Server, "GET", unlistedPath):
		return fmt.Sprintf("they admit the client's requests of any path, as %q: nothing could be proven to be denied; choose another client or server", unlistedPath)
	}
	return ""
}

// ownRequestTries are requests whose outcome the reference says: of the client, by its path
// and others, and of other sources as far as they can be sent from.
func (r *renderer) ownRequestTries(denied string) (out []bundle.RequestTry) {
	o, t := r.policies.own, r.Topology
	try := func(what, from, method, path string) {
		source, want := t.Client.Addr, denied
		if from != "" {
			source = netip.MustParseAddr(from)
		}
		if o.admitsRequest(source, t.Server, method, path) {
			want = "200"
		}
		out = append(out, bundle.RequestTry{What: what, From: from, Parts: []string{requestText(method, path)}, Requests: 1, Want: want})
	}
	path := RequestPath(r.cell)
	try("the client's request", "", "GET", path)
	try("a path that no policy names", "", "GET", unlistedPath)
	try("another method", "", "PATCH", path)
	try("the client's path with more behind it", "", "GET", path+"-more")
	try("the client's request, of a source that no policy names", unlistedSource(t.IPv6).String(), "GET", path)
	if a, ok := o.stranger(t.Server.Addr, int(o.port), t); ok {
		try("the client's request, of a pod that may not connect", a.String(), "GET", path)
	}
	if p, ok := r.middleRequest(); ok {
		from := ""
		if p.Source.IsValid() {
			from = lastAddr(bpf.Policy{Source: p.Source}).String()
		}
		try("a request of the policy in the middle", from, p.Method, policy.Requests{Path: p.Prefix, Exact: p.Exact}.Example())
	}
	return out
}

// middleRequest is the policy nearest to the middle whose requests can be made.
func (r *renderer) middleRequest() (p RequestPolicy, ok bool) {
	var able []RequestPolicy
	for _, p := range r.requests {
		if p.Method != "" && (!p.Source.IsValid() || canSend(lastAddr(bpf.Policy{Source: p.Source}), r.Topology.IPv6)) {
			able = append(able, p)
		}
	}
	if len(able) == 0 {
		return p, false
	}
	return able[len(able)/2], true
}
