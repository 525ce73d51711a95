package datapath

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Filters of requests.
const (
	filterL7HAProxy = "l7-haproxy"
	filterL7Nginx   = "l7-nginx"
	filterL7Nft     = "l7-nft"
	filterL7String  = "l7-string"
	filterL7TC      = "l7-tc"
	filterL7SKSKB   = "l7-skskb"
	filterL7SKMSG   = "l7-skmsg"

	policyL7 = "l7"

	optIntercept      = "intercept"
	interceptRedirect = "redirect"
	interceptTPROXY   = "tproxy"
)

// Ports in the server's namespace that no other endpoint can use.
const (
	proxyPort  = 15001 // of the proxy
	statusPort = 15002 // where it reports, on 127.0.0.1

	proxyHandle = "proxy"
)

// RequestPolicy admits requests of a method whose path begins with a prefix. The port that
// they are about has the rest denied. Those of users can have more: the path is Prefix and
// nothing else (Exact), any method (""), any path (""), and a source.
type RequestPolicy struct {
	Method, Prefix string
	Exact          bool
	Source         netip.Prefix // the zero value is every one
}

// text is how an admitted request of HTTP/1 begins; "" of any request.
func (p RequestPolicy) text() string {
	switch {
	case p.Method == "" && p.Prefix == "":
		return ""
	case p.Exact:
		return p.Method + " " + p.Prefix + " HTTP/"
	}
	return p.Method + " " + p.Prefix
}

// requestPath is what is requested below a prefix.
const requestPath = "item"

// RequestPolicies are the first n policies of requests, which are distinct, and drawn by a
// fixed seed, so that every arm and run gets the same. The methods take turns; the policy
// at the position at, which the workload's requests meet, is about GET.
func RequestPolicies(n, at int) []RequestPolicy {
	methods := []string{"GET", "POST", "PUT", "DELETE"}
	rng := rand.New(rand.NewPCG(0x72_65_71, 0x75_65_73_74))
	seen := map[uint16]bool{}
	out := make([]RequestPolicy, 0, n)
	for len(out) < n {
		number := uint16(rng.UintN(1 << 16))
		if seen[number] || number == updateRequest || number == unlistedRequest {
			continue
		}
		seen[number] = true
		p := RequestPolicy{Method: methods[len(out)%len(methods)], Prefix: requestPrefix(number)}
		if len(out) == at {
			p.Method = "GET"
		}
		out = append(out, p)
	}
	return out
}

// Numbers in paths that no policy of a cell ever has: of the one that an update adds, and of
// a request that must be denied.
const (
	updateRequest   = 0xfffc
	unlistedRequest = 0xfffe
	// mostRequestPolicies is more than anybody measures, and far less than there are numbers.
	mostRequestPolicies = 10_000
)

func requestPrefix(number uint16) string { return fmt.Sprintf("/public/%04x/", number) }

// requestsOf are the policies of a cell, and the position of the one that its workload
// meets.
func requestsOf(cell plan.Cell) (all []RequestPolicy, at int) {
	n := cell.Int(plan.FactorPolicies)
	if n == 0 {
		return nil, 0
	}
	at = matchAt(cell.Get(optMatch), n, 1)[0]
	return RequestPolicies(n, at), at
}

// RequestPath is the path that a cell's workload requests. It is as long in every cell,
// and the same for every filter at the same number of policies.
func RequestPath(cell plan.Cell) string {
	if path, ok := ownPath(cell); ok {
		return path
	}
	if all, at := requestsOf(cell); len(all) > 0 {
		return all[at].Prefix + requestPath
	}
	return RequestPolicies(1, 0)[0].Prefix + requestPath
}

// l7Filters judge requests of HTTP at the server: proxies all of each request, the others
// the first bytes of a segment.
func l7Filters() []filter {
	const hookProxy = "a program that connections to the server are redirected to"
	since := func(release string, f filter) filter {
		f.since = release
		return f
	}
	one := func(name, mechanism, structure, hook, denied, doc string, render func(*renderer) error, rs ...refusal) filter {
		return filter{
			name: name, doc: doc, inside: true, render: render, denied: denied, application: catalog.HTTP,
			nature:  nature{mechanism: mechanism, structure: structure, regime: catalog.Stateless, hook: hook},
			options: requestOptions(), mostRules: mostRequestPolicies + 1,
			maxClients: 1, whyClients: "its policies are about one port, and each client has one of its own",
			refuse: refuseFirst(rs...),
		}
	}
	haproxy := one(filterL7HAProxy, catalog.Proxy, catalog.List, hookProxy, "403", "HAProxy in the server's namespace, one rule a policy; judges every request; a denied one gets 403", l7HAProxy)
	haproxy.options = append(haproxy.options, plan.Option{Key: optIntercept, Allowed: []string{interceptRedirect, interceptTPROXY},
		Doc: "how connections come to the proxy: by REDIRECT, a NAT; or by TPROXY, with which the server sees the client's address"})
	return []filter{
		haproxy,
		one(filterL7Nginx, catalog.Proxy, catalog.List, hookProxy, "403", "nginx in the server's namespace, one regular expression a policy; judges every request; a denied one gets 403", l7Nginx),
		since("6.2", one(filterL7Nft, catalog.Netfilter, catalog.List, hookNetfilter([]string{placementInput}), bundle.RequestSilent, "nftables, one rule a policy; judges the first bytes of each segment only; a denied one is dropped", l7Nft)),
		one(filterL7String, catalog.Netfilter, catalog.List, hookNetfilter([]string{placementInput}), bundle.RequestSilent, "iptables-legacy, one string match a policy; searches the first bytes of each segment only; a denied one is dropped", l7String),
		one(filterL7TC, catalog.TC, catalog.Prefixes, hookTCEndpoint, bundle.RequestSilent, "tc eBPF, a trie of how requests begin; judges the first bytes of each segment only; a denied one is dropped", l7TC),
		one(filterL7SKSKB, catalog.Socket, catalog.Prefixes, "stream verdict of the server's accepted sockets", bundle.RequestSilent, "sk_skb eBPF at the server's accepted sockets, the same trie; judges the first bytes of each piece that arrives only; a denied one is dropped", l7SKSKB, refuseContainer(Server)),
		one(filterL7SKMSG, catalog.Socket, catalog.Prefixes, "send verdict of the client's connected sockets", bundle.RequestUnsent, "sk_msg eBPF at the client's sockets, the same trie; judges the first bytes of each call that sends only; a denied one fails with EACCES", l7SKMSG, refuseContainer(Client)),
	}
}

// judgesRequests says whether a filter is one of these.
func judgesRequests(name string) bool {
	return slices.ContainsFunc(l7Filters(), func(f filter) bool { return f.name == name })
}

// requestOptions are those of every filter of requests.
func requestOptions() []plan.Option {
	return []plan.Option{
		{Key: optPolicy, Role: catalog.RolePolicies, Allowed: []string{policyL7, PolicyOwn}, Doc: "policies name method and path prefix of requests; own is what arms have beside [[policy]]"},
		{Key: optMatch, Role: catalog.RolePolicies, Allowed: []string{matchLast, matchFirst, matchUniform}, Doc: "position of the policy that admits the client's requests"},
	}
}

// refuseContainer: a container's cgroup is its engine's.
func refuseContainer(whose string) refusal {
	return func(lab plan.Lab, _ fabric, _ string, _ map[string]string) string {
		if lab.Endpoint == plan.EndpointDocker {
			return fmt.Sprintf("it needs a cgroup of its own for the %s, which containers do not have; write endpoint = %q, or filter = %q",
				whose, plan.EndpointNetns, filterL7TC)
		}
		return ""
	}
}

// l7Nft renders one rule for each policy. A segment without payload has no first byte to
// match, and passes.
func l7Nft(r *renderer) error {
	if len(r.requests) == 0 {
		return nil
	}
	table := r.six("ip", "ip6") + " " + nftTable
	rule := func(p RequestPolicy) string {
		source := ""
		if p.Source.IsValid() {
			source = r.six("ip", "ip6") + " saddr " + p.Source.String() + " "
		}
		return fmt.Sprintf("%stcp dport %d %scounter accept", source, r.servicePort(), nftBegins(p.text()))
	}
	lines := []string{"type filter hook input priority filter; policy accept;"}
	for _, p := range r.requests {
		lines = append(lines, rule(p))
	}
	lines = append(lines, fmt.Sprintf("tcp dport %d @ih,0,8 >= 0x0 counter drop", r.servicePort()), "counter")
	text := fmt.Sprintf("create table %s\ntable %s {\n%s}\n", table, table, nftBlock("chain "+chainRequests, lines))
	extra := ExtraRequest()
	r.loadRules(l7Rules{
		tool: nftTool, name: "requests.nft", load: text,
		add:     fmt.Sprintf("insert rule %s %s %s comment %q\n", table, chainRequests, rule(extra), nftUpdated),
		take:    fmt.Sprintf("delete rule %s %s handle {handle:%s %s %s}\n", table, chainRequests, table, chainRequests, nftUpdated),
		counter: bundle.RuleCounter{Tool: nftTool, Table: table, Chain: chainRequests}, rules: len(r.requests) + 2,
	})
	return nil
}

// nftWidth is how many bytes a match of nftables compares at once: a register
// (NFT_REG_SIZE in the kernel's include/uapi/linux/netfilter/nf_tables.h).
const nftWidth = 16

// nftBegins matches what the payload behind the TCP header begins with (Linux 6.2).
func nftBegins(text string) string {
	var b strings.Builder
	for at := 0; at < len(text); at += nftWidth {
		part := text[at:min(at+nftWidth, len(text))]
		fmt.Fprintf(&b, "@ih,%d,%d 0x%x ", 8*at, 8*len(part), part)
	}
	return b.String()
}

// chainRequests is nft's chain, which no hook's name may be, as update finds rules by it.
const chainRequests = "requests"

// Bytes of IP and TCP headers between which the payload begins, and a segment that is
// longer than the shortest request that anything could come of.
const (
	tcpHeaderLeast = 20
	tcpHeaderMost  = 60
	longestEmpty   = tcpHeaderMost // of IP and TCP; a SYN has 40 bytes of options at most
)

// l7String renders one string match for each policy. It cannot find where the payload
// begins, and searches every place where it can. Nor can it find whether there is a
// payload: a segment that could be all headers passes.
func l7String(r *renderer) error {
	if len(r.requests) == 0 {
		return nil
	}
	ip := 20
	tool := filterIptablesLegacy
	if r.Topology.IPv6 {
		ip, tool = 40, "ip6tables-legacy"
	}
	rule := func(p RequestPolicy) string {
		from, to := ip+tcpHeaderLeast, ip+tcpHeaderMost
		source, text := "", ""
		if p.Source.IsValid() {
			source = "-s " + p.Source.String() + " "
		}
		if p.text() != "" {
			text = fmt.Sprintf("-m string --string %q --algo bm --from %d --to %d ", p.text(), from, to+len(p.text()))
		}
		return fmt.Sprintf("%s-p tcp -m tcp --dport %d %s-j ACCEPT", source, r.servicePort(), text)
	}
	var b strings.Builder
	b.WriteString("*filter\n:INPUT ACCEPT [0:0]\n")
	for _, p := range r.requests {
		fmt.Fprintf(&b, "-A INPUT %s\n", rule(p))
	}
	fmt.Fprintf(&b, "-A INPUT -p tcp -m tcp --dport %d -m length --length %d:65535 -j DROP\nCOMMIT\n", r.servicePort(), ip+20+longestEmpty-20+1)
	line := func(verb string) string {
		return fmt.Sprintf("*filter\n-%s INPUT %s\nCOMMIT\n", verb, rule(ExtraRequest()))
	}
	r.loadRules(l7Rules{
		tool: tool, name: "requests.rules", load: b.String(), add: line("I"), take: line("D"),
		counter: bundle.RuleCounter{Tool: tool, Table: "filter", Chain: chainInput}, rules: len(r.requests) + 1,
	})
	return nil
}

// l7Rules are rules of requests as a tool takes them.
type l7Rules struct {
	tool, name, load, add, take string
	counter                     bundle.RuleCounter
	rules                       int
}

// loadRules loads rules into the server's namespace, which goes away with all that is in
// it.
func (r *renderer) loadRules(l l7Rules) {
	node := r.Topology.Server.Node
	r.apply(node, Server, bundle.Rules{Tool: l.tool, File: r.file(l.name, []byte(l.load))})
	r.Hook = &Hook{Node: node.Name, In: Server, From: bundle.Counter{Rules: &l.counter}}
	r.expectRules(l.rules)
	r.update(node, Server, bundle.Rules{Tool: l.tool, File: r.file("update."+l.name, []byte(l.add)), Metric: bundle.MetricUpdate})
	r.revert(node, Server, bundle.Rules{Tool: l.tool, File: r.file("revert."+l.name, []byte(l.take)), Metric: bundle.MetricUpdate})
}

func (r *renderer) expectRules(n int) {
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("rules for %d policies of requests", len(r.requests)), Key: bundle.CountRules, Op: bundle.Equal, Value: uint64(n),
	})
}

// ExtraRequest is the policy that Setup.Update adds: one more than a cell has.
func ExtraRequest() RequestPolicy {
	return RequestPolicy{Method: "GET", Prefix: requestPrefix(updateRequest)}
}

// servicePort is that of the server, which policies of requests are about.
func (r *renderer) servicePort() int { return r.Topology.Client.Port }

func requestHandle(n Node) string { return "requests@" + n.Name }

// l7TC attaches the program of requests where packets enter the server.
func l7TC(r *renderer) error {
	node := r.Topology.Server.Node
	handle := requestHandle(node)
	r.apply(node, "", bundle.LoadBPF{
		Handle: handle, Object: r.file("request.bpf.o", bpf.RequestObject()), Programs: []string{bpf.ProgRequestTC}, Tables: []string{bpf.MapRequests},
		Vars: r.requestVars(),
	})
	if err := r.fillRequests(node, handle); err != nil {
		return err
	}
	r.apply(node, Server, bundle.AttachBPF{Handle: handle, Program: bpf.ProgRequestTC, Link: endpointLink, Hook: bundle.HookTCIngress})
	return nil
}

// l7SKSKB attaches the program of requests where the server's sockets receive: a program at
// its cgroup puts each that it accepts into a map.
func l7SKSKB(r *renderer) error {
	node := r.Topology.Server.Node
	handle := requestHandle(node)
	r.apply(node, Server, bundle.Cgroup{})
	r.apply(node, "", bundle.LoadBPF{
		Handle: handle, Object: r.file("request.bpf.o", bpf.RequestObject()), Programs: []string{bpf.ProgRequestAccepted, bpf.ProgRequestReceive},
		Tables: []string{bpf.MapRequests}, Vars: r.requestVars(),
	})
	if err := r.fillRequests(node, handle); err != nil {
		return err
	}
	r.apply(node, Server, bundle.AttachBPF{Handle: handle, Program: bpf.ProgRequestReceive, Hook: bundle.HookStream, Map: bpf.MapSockets})
	r.apply(node, Server, bundle.AttachBPF{Handle: handle, Program: bpf.ProgRequestAccepted, Hook: bundle.HookSockOps})
	return nil
}

// l7SKMSG attaches the program of requests where the client's sockets send: a program at its
// cgroup puts each with which it connects into a map.
func l7SKMSG(r *renderer) error {
	node := r.Topology.Client.Node
	handle := requestHandle(node)
	r.apply(node, Client, bundle.Cgroup{})
	r.apply(node, "", bundle.LoadBPF{
		Handle: handle, Object: r.file("message.bpf.o", bpf.MessageObject()), Programs: []string{bpf.ProgMessageConnected, bpf.ProgMessageSent},
		Tables: []string{bpf.MapRequests}, Vars: r.requestVars(),
	})
	if err := r.fillRequests(node, handle); err != nil {
		return err
	}
	r.apply(node, Client, bundle.AttachBPF{Handle: handle, Program: bpf.ProgMessageSent, Hook: bundle.HookMessage, Map: bpf.MapSockets})
	r.apply(node, Client, bundle.AttachBPF{Handle: handle, Program: bpf.ProgMessageConnected, Hook: bundle.HookSockOps})
	return nil
}

func (r *renderer) requestVars() map[string]string {
	return map[string]string{
		bpf.VarRequestPort:    hex.EncodeToString(binary.LittleEndian.AppendUint16(nil, uint16(r.servicePort()))),
		bpf.VarRequestEnforce: onOff(len(r.requests) > 0),
	}
}

// fillRequests fills the map of policies, and says what it must then hold and where
// requests are counted.
func (r *renderer) fillRequests(node Node, handle string) error {
	counter := &bundle.BPFCounter{Handle: handle, Stats: bpf.MapStats}
	r.Hook = &Hook{Node: node.Name, From: bundle.Counter{BPF: counter}}
	r.guard(node, "", bundle.Guard{Handle: handle, JIT: true})
	if len(r.requests) == 0 {
		return nil
	}
	var b strings.Builder
	for _, p := range r.requests {
		line, err := bpf.RequestLine(p.text())
		if err != nil {
			return err
		}
		b.WriteString(line)
	}
	one, err := bpf.RequestLine(ExtraRequest().text())
	if err != nil {
		return err
	}
	counter.Maps = []string{bpf.MapRequests}
	r.apply(node, "", bundle.FillMap{Handle: handle, Map: bpf.MapRequests, File: r.file(bpf.MapRequests, []byte(b.String()))})
	r.expectEntries(bpf.MapRequests, len(r.requests))
	more := r.file("update."+bpf.MapRequests, []byte(one))
	r.update(node, "", bundle.FillMap{Handle: handle, Map: bpf.MapRequests, File: more, Metric: bundle.MetricUpdate})
	r.revert(node, "", bundle.FillMap{Handle: handle, Map: bpf.MapRequests, File: more, Delete: true, Metric: bundle.MetricUpdate})
	return nil
}

// l7HAProxy starts HAProxy in the server's namespace, with one rule for each policy.
func l7HAProxy(r *renderer) error {
	bind, server, marked := "", r.six("127.0.0.1", "::1"), ""
	var rules strings.Builder
	if r.byTPROXY() {
		bind, server = " transparent", r.Topology.Server.Addr.String()
		fmt.Fprintf(&rules, "\thttp-request set-bc-mark %d\n", interceptMark) // first: what admits ends the list
		marked = "\tsource " + r.six("0.0.0.0", "[::]") + " usesrc clientip\n"
	}
	for _, p := range r.requests {
		fmt.Fprintf(&rules, "\thttp-request allow if%s\n", haproxyMatch(p))
	}
	if len(r.requests) > 0 {
		rules.WriteString("\thttp-request deny deny_status 403\n")
	}
	text := fmt.Sprintf(haproxyText, statusPort, r.six(":", ":::"), proxyPort, bind, rules.String(), marked, server, r.servicePort())
	r.proxy([]string{"haproxy", "-db", "-f", "/run/haproxy.cfg"}, "haproxy.cfg", text, bundle.ProxyHAProxy)
	paths := 0 // which are what HAProxy lists of its rules
	for _, p := range r.requests {
		if p.Prefix != "" {
			paths++
		}
	}
	r.expectRules(paths)
	return nil
}

// haproxyMatch are the conditions of a policy; { always_true } of one that admits everything.
func haproxyMatch(p RequestPolicy) string {
	out := ""
	if p.Source.IsValid() {
		out += fmt.Sprintf(" { src %s }", p.Source)
	}
	if p.Method != "" {
		out += fmt.Sprintf(" { method %s }", p.Method)
	}
	switch {
	case p.Exact:
		out += fmt.Sprintf(" { pathq %s }", p.Prefix)
	case p.Prefix != "":
		out += fmt.Sprintf(" { path_beg %s }", p.Prefix)
	}
	return cmp.Or(out, " { always_true }")
}

// haproxyText is HAProxy's configuration: one thread, HTTP/1.1 and, by prior knowledge,
// HTTP/2.
const haproxyText = `global
	nbthread 1
	maxconn 512
	stats socket ipv4@127.0.0.1:%d level user
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
frontend policies
	bind %s%d%s
%s	default_backend server
backend server
%s	server s %s:%d
`

// l7Nginx starts nginx as a proxy in the server's namespace, with one regular expression
// for each policy, which are asked in their order.
func l7Nginx(r *renderer) error {
	rules, verdict := "", ""
	if len(r.requests) > 0 {
		rules, verdict = nginxRules(r.requests, r.policies.own != nil), "if ($admitted = 0) { return 403; }\n\t\t\t"
	}
	text := fmt.Sprintf(nginxText, rules, r.six("127.0.0.1", "[::1]"), r.servicePort(), r.six("0.0.0.0", "[::]"), proxyPort, verdict, statusPort)
	r.proxy([]string{"nginx", "-e", "stderr", "-c", "/run/nginx-proxy.conf"}, "nginx-proxy.conf", text, bundle.ProxyNginx)
	return nil
}

// nginxRules are policies as a map of regular expressions. Those of users have a flag for each
// source before the method, and what follows the path behind it.
func nginxRules(list []RequestPolicy, own bool) string {
	var b strings.Builder
	var sources []netip.Prefix
	for _, p := range list {
		if p.Source.IsValid() && !slices.Contains(sources, p.Source) {
			fmt.Fprintf(&b, "\tgeo $from%d { default 0; %s 1; }\n", len(sources), p.Source)
			sources = append(sources, p.Source)
		}
	}
	flags, query := "", ""
	for i := range sources {
		flags += fmt.Sprintf("${from%d}", i)
	}
	if own {
		flags, query = flags+" ", "$is_args$args"
	}
	fmt.Fprintf(&b, "\tmap \"%s$request_method $uri%s\" $admitted {\n\t\tdefault 0;\n", flags, query)
	for _, p := range list {
		text := p.text()
		if own {
			text = nginxFlags(slices.Index(sources, p.Source), len(sources)) + " " + nginxRequest(p)
		}
		fmt.Fprintf(&b, "\t\t\"~^%s\" 1;\n", text)
	}
	b.WriteString("\t}\n")
	return b.String()
}

// nginxFlags matches the flags of so many sources of which number at is set, -1 for any.
func nginxFlags(at, count int) string {
	switch {
	case count == 0:
		return ""
	case at < 0:
		return fmt.Sprintf(".{%d}", count)
	}
	return fmt.Sprintf(".{%d}1.{%d}", at, count-at-1)
}

func nginxRequest(p RequestPolicy) string {
	out := cmp.Or(p.Method, "[^ ]+") + " " + regexp.QuoteMeta(p.Prefix)
	if p.Exact {
		out += "$"
	}
	return out
}

// nginxText is nginx's configuration as a proxy, else as the server's (package workload).
const nginxText = `daemon off;
master_process off;
user root;
pid /run/nginx-proxy.pid;
error_log stderr error;
worker_processes 1;
events { worker_connections 512; }
http {
	access_log off;
	keepalive_requests 100000000;
	keepalive_timeout 1h;
	client_body_temp_path /tmp;
	proxy_temp_path /tmp;
	fastcgi_temp_path /tmp;
	uwsgi_temp_path /tmp;
	scgi_temp_path /tmp;
%s	upstream server {
		server %s:%d;
		keepalive 16;
		keepalive_requests 100000000;
		keepalive_timeout 1h;
	}
	server {
		listen %s:%d backlog=512;
		http2 on;
		location / {
			%sproxy_pass http://server;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
	server {
		listen 127.0.0.1:%d;
		location / { stub_status; }
	}
}
`

// proxy starts a proxy, has what comes for the server's port come to it, and reads its
// counters. It is there also without policies, and then admits everything.
func (r *renderer) proxy(argv []string, name, text, kind string) {
	node := r.Topology.Server.Node
	sched := ""
	if r.cell.Get(plan.FactorClock) == plan.ClockVirtual {
		sched = bundle.SchedRR
	}
	r.apply(node, Server, bundle.Start{
		Handle: proxyHandle, Argv: argv, HTTP: true, Files: []string{r.file(name, []byte(text))}, CPUs: []int{r.cell.Int(plan.FactorServerCPU)}, Sched: sched, Port: proxyPort,
	})
	r.Proxy = proxyHandle
	r.intercept()
	r.Hook = &Hook{Node: node.Name, In: Server, From: bundle.Counter{Proxy: &bundle.ProxyCounter{Kind: kind, Port: statusPort}}}
	r.guard(node, Server, bundle.Guard{Conntrack: tableShare})
}

// intercept has connections from outside come to the proxy.
func (r *renderer) intercept() {
	node, tool := r.Topology.Server.Node, r.six(filterIptablesLegacy, "ip6tables-legacy")
	text := fmt.Sprintf("*nat\n-A PREROUTING -p tcp -m tcp --dport %d -j REDIRECT --to-ports %d\nCOMMIT\n", r.servicePort(), proxyPort)
	undo := "*nat\n-F PREROUTING\nCOMMIT\n"
	if r.byTPROXY() {
		r.returnToProxy()
		text = fmt.Sprintf("*mangle\n-A PREROUTING -i %s -p tcp -m tcp --dport %d -j TPROXY --on-port %d\nCOMMIT\n", endpointLink, r.servicePort(), proxyPort)
		undo = "*mangle\n-F PREROUTING\nCOMMIT\n"
	}
	r.apply(node, Server, bundle.Rules{Tool: tool, File: r.file("intercept.rules", []byte(text)), Undo: r.file("intercept.undo.rules", []byte(undo)), Metric: metricIntercept})
}

func (r *renderer) byTPROXY() bool { return r.cell.Get(optIntercept) == interceptTPROXY }

// interceptMark is of the connections from the proxy to the server, and interceptTable
// routes what has it.
const (
	interceptMark  = 1
	interceptTable = 100
)

// returnToProxy has what the server answers come to the proxy, although it is addressed to
// the client: the sockets that it accepts take the mark of the connection.
func (r *renderer) returnToProxy() {
	node := r.Topology.Server.Node
	r.apply(node, Server, bundle.Sysctl{Key: "net.ipv4.tcp_fwmark_accept", Value: "1"})
	r.apply(node, Server, bundle.LocalMark{Mark: interceptMark, Table: interceptTable, Family: r.six(bundle.IPv4, bundle.IPv6)})
}

// metricIntercept is of loading what is no policy, and no metric of rows.
const metricIntercept = "intercept_seconds"

// proveRequests renders the proof of a filter of requests: with policies, what the
// workload's policy and one in the middle admit is answered, and a path that none names, and
// an admitted path by another method, end as the filter denies. Without policies
// everything is answered.
func (r *renderer) proveRequests(denied string) {
	t := r.Topology
	start, files := bundle.HTTPServer("probe-http", t.Server.Addr.String(), r.servicePort())
	maps.Copy(r.Files, files)
	node := t.Server.Node.Name
	r.proveStep(node, Server, start)
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, proveBefore))
	}
	do := bundle.Requests{To: t.Server.Addr.String(), Port: r.servicePort(), Timeout: probeSilence, InCgroup: denied == bundle.RequestUnsent}
	if do.Tries = r.requestTries(denied); r.policies.own != nil {
		do.Tries, do.Link = r.ownRequestTries(denied), endpointLink
	}
	tries := do.Tries
	r.proveStep(t.Client.Node.Name, Client, do)
	if r.Hook != nil {
		r.Prove = append(r.Prove, r.Hook.Read(bundle.Prove, ProveAfter))
		r.expectRequests(tries)
	}
	r.proveStep(node, Server, bundle.Stop{Handle: "probe-http"})
	r.Prove = append(r.Prove, r.Guards(bundle.Prove)...)
}

// requestText is a request of HTTP/1.1.
func requestText(method, path string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: server\r\n" + map[bool]string{true: "Content-Length: 0\r\n"}[method == "POST" || method == "PUT"] + "\r\n"
}

func (r *renderer) requestTries(denied string) []bundle.RequestTry {
	const ok = "200"
	if len(r.requests) == 0 {
		denied = ok
	}
	try := func(what, method, path, want string) bundle.RequestTry {
		return bundle.RequestTry{What: what, Parts: []string{requestText(method, path)}, Requests: 1, Want: want}
	}
	own, other := RequestPath(r.cell), requestPrefix(unlistedRequest)+requestPath
	tries := []bundle.RequestTry{
		try("the client's request", "GET", own, ok),
		try("a path that no policy names", "GET", other, denied),
		try("a method that no policy names with the path", "PATCH", own, denied),
	}
	if n := len(r.requests); n > 1 {
		p := r.requests[(n-1)/2]
		tries = append(tries, try(fmt.Sprintf("policy %d's request", (n-1)/2+1), p.Method, p.Prefix+requestPath, ok))
	}
	return tries
}

// expectRequests requires that the filter's own counters agree with the tries, as far as it
// has them, and its size with the policies.
func (r *renderer) expectRequests(tries []bundle.RequestTry) {
	var allowed, denied uint64
	for _, t := range tries {
		if t.Want == "200" {
			allowed++
		} else {
			denied++
		}
	}
	expect := func(what, key string, least uint64) {
		r.proveStep(r.Hook.Node, "", bundle.Expect{What: what, Read: ProveAfter, Since: proveBefore, Key: key, Op: bundle.AtLeast, Value: least})
	}
	if p := r.Hook.From.Proxy; p != nil && p.Kind == bundle.ProxyNginx || len(r.requests) == 0 {
		expect("requests pass the filter", bundle.CountPackets, allowed+denied)
	} else {
		expect("denied requests are dropped by the filter", bundle.CountDropped, denied)
		expect("allowed requests pass the filter", bundle.CountAccepted, allowed)
	}
	for _, e := range r.realised {
		e.Read = ProveAfter
		r.proveStep(r.Hook.Node, "", e)
	}
}
