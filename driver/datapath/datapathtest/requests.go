package datapathtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/guest/probe"
)

// judgesRequests: the arm's policies name requests, and TestConform's packets mean nothing
// to it.
func (a Arm) judgesRequests() bool { return a.entry.Application != "" }

// intercepted are the arm's others that differ in how connections come to a proxy alone, over
// IPv4 and over IPv6.
func (a Arm) intercepted() (out []Arm) {
	const key = "intercept"
	for _, o := range a.entry.Options {
		if o.Key != key {
			continue
		}
		for _, level := range o.Allowed[1:] {
			for _, family := range []string{"ipv4", "ipv6"} {
				other := a
				other.Options = maps.Clone(a.Options)
				other.Options[key], other.Options["family"] = level, family
				out = append(out, other)
			}
		}
	}
	return out
}

// Filters of requests, for what is expected of each.
const (
	l7HAProxy = "l7-haproxy"
	l7Nginx   = "l7-nginx"
	l7Nft     = "l7-nft"
	l7String  = "l7-string"
	l7TC      = "l7-tc"
	l7SKSKB   = "l7-skskb"
	l7SKMSG   = "l7-skmsg"
)

// requestRow is what is sent on one connection, and what must come of it. A row with a
// reason is of something that a filter cannot hold, or breaks; it must really be so.
type requestRow struct {
	name, doc string
	try       bundle.RequestTry
	http2     bool // instead of try: an admitted and a forbidden request of HTTP/2
	// want is by filter.
	want map[string]requestWant
}

// inTwo is the row whose outcome depends on whether its two parts are joined, by the sender, which
// sends a dropped one again, or by a receiver that is late.
const inTwo = "admitted, split"

// times is how often a row is tried until it comes out as it must. A forbidden request must be refused
// at once, but the parts of an admitted one may be joined otherwise on a busy computer.
func (r requestRow) times() int {
	if r.name == inTwo {
		return 5
	}
	return 1
}

// requestWant is an outcome (bundle.RequestTry), and why it is not as policies say, "" if
// it is.
type requestWant struct{ outcome, declared string }

// Reasons.
const (
	onlyFirst   = "it looks at what a segment, or what is sent at once, begins with, and a second request is not there"
	noSecond    = "it joins no segments, and the first piece is acknowledged: what follows does not begin as a policy says"
	noSecondOut = "it joins nothing that is sent in several calls, and refuses the first"
	searches    = "it finds an admitted beginning wherever it can stand in the first bytes"
	smallPasses = "it cannot know whether a short segment has a payload, and lets it pass"
	rawPath     = "it compares the path as it was sent, and the server resolves it"
	noHTTP2     = "HTTP/2 does not begin as a policy says: none gets through"
)

// wants are the outcomes of a row: of the proxies, and of the filters of first bytes.
func wants(haproxy, nginx, nft, str, tc, skskb, skmsg requestWant) map[string]requestWant {
	return map[string]requestWant{l7HAProxy: haproxy, l7Nginx: nginx, l7Nft: nft, l7String: str, l7TC: tc, l7SKSKB: skskb, l7SKMSG: skmsg}
}

func as(outcome string, declared ...string) requestWant {
	return requestWant{outcome, strings.Join(declared, "")}
}

// same is an outcome of the proxies, one of the filters at the server, and that of the one at
// the client.
func same(proxies, others, client requestWant) map[string]requestWant {
	return wants(proxies, proxies, others, others, others, others, client)
}

// requestRows are the rows for policies of which one admits GET below a path and one POST
// below another.
func requestRows(get, post datapath.RequestPolicy) []requestRow {
	const head = " HTTP/1.1\r\nHost: server\r\n"
	path := get.Prefix + "item"
	ok := "GET " + path + head + "\r\n"
	bad := "GET /secret" + head + "\r\n"
	one := func(parts ...string) bundle.RequestTry { return bundle.RequestTry{Parts: parts, Requests: 1} }
	two := func(await bool, parts ...string) bundle.RequestTry {
		return bundle.RequestTry{Parts: parts, Await: await, Requests: 2}
	}
	unsent := as(bundle.RequestUnsent)
	denied := same(as("403"), as(bundle.RequestSilent), unsent)
	return []requestRow{
		{"admitted", "a request that a policy admits", one(ok), false, same(as("200"), as("200"), as("200"))},
		{"path", "a path that no policy names", one(bad), false, denied},
		{"method", "a method that no policy names with the path", one("DELETE " + path + head + "\r\n"), false, denied},
		{"unknown method", "a method that no standard has", one("FROB " + path + head + "\r\n"), false, denied},
		{"keep-alive", "a forbidden request after the answer to an admitted one", two(true, ok, bad), false, same(as("200 403"), as("200 "+bundle.RequestSilent), as("200 "+bundle.RequestUnsent))},
		{"pipelined", "a forbidden request in one segment with an admitted one", two(false, ok+bad), false, same(as("200 403"), as("200 200", onlyFirst), as("200 200", onlyFirst))},
		{"split", "a forbidden request in two segments", one("GET ", "/secret"+head+"\r\n"), false, denied},
		{"pieces", "a forbidden request in segments of 8 bytes", one(pieces(bad, 8)...), false,
			wants(as("403"), as("403"), as(bundle.RequestSilent), as("200", smallPasses), as(bundle.RequestSilent), as(bundle.RequestSilent), unsent)},
		// The first piece is dropped, and sent again together with the second.
		{inTwo, "an admitted request in two segments", one("GET ", path+head+"\r\n"), false,
			wants(as("200"), as("200"), as("200"), as(bundle.RequestSilent, noSecond), as("200"), as(bundle.RequestSilent, noSecond), as(bundle.RequestUnsent, noSecondOut))},
		{"embedded", "a forbidden request with the text of an admitted one in a header", one("GET /s" + " HTTP/1.1\r\nX: GET " + path + "\r\nHost: server\r\n\r\n"), false,
			wants(as("403"), as("403"), as(bundle.RequestSilent), as("200", searches), as(bundle.RequestSilent), as(bundle.RequestSilent), unsent)},
		{"dot segments", "an admitted path that leads out of its prefix by \"..\"", one("GET " + get.Prefix + "../../secret" + head + "\r\n"), false,
			wants(as("200", rawPath), as("403"), as("200", rawPath), as("200", rawPath), as("200", rawPath), as("200", rawPath), as("200", rawPath))},
		{"body", "a forbidden request as the body of an admitted one, and after it", two(false, fmt.Sprintf("POST %sitem%sContent-Length: %d\r\n\r\n%s%s", post.Prefix, head, len(bad), bad, bad)), false,
			same(as("200 403"), as("200 200", onlyFirst), as("200 200", onlyFirst))},
		{"smuggled", "lengths that contradict each other (CL.TE), with a forbidden request behind", two(false, fmt.Sprintf("POST %sitem%sContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", post.Prefix, head, len(bad)+5, bad)), false,
			wants(as("200 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed), as("400 "+bundle.RequestClosed))},
		{"HTTP/2", "by prior knowledge: an admitted request, then a forbidden one on the same connection", bundle.RequestTry{}, true,
			same(as("200 403"), as(bundle.RequestSilent, noHTTP2), as(bundle.RequestUnsent, noHTTP2))},
	}
}

func pieces(text string, size int) (out []string) {
	for p := range slices.Chunk([]byte(text), size) {
		out = append(out, string(p))
	}
	return out
}

// ConformRequests puts one arm that judges requests to the test: its own proof, every row,
// the update by one policy, removing it, and a helper that is killed.
func ConformRequests(t *testing.T, rig Rig, arm Arm, report *RequestReport) {
	t.Helper()
	b := &bench{t: t, rig: rig, arm: arm, held: map[int]map[string]float64{}}
	defer b.end()
	if err := b.begin(); err != nil {
		t.Fatal(err)
	}
	if !b.check(checkApply, func() error { return b.apply(arm, mainPolicies) }) {
		return
	}
	b.check(checkVerify, b.verify)
	if err := b.serveRequests(); err != nil {
		t.Fatalf("serve requests: %v", err)
	}
	policies := datapath.RequestPolicies(mainPolicies, mainPolicies-1)
	for _, row := range requestRows(policies[mainPolicies-1], policies[1]) {
		var got string
		t.Run(row.name, func(t *testing.T) {
			var err error
			want := row.want[arm.Filter]
			for range row.times() {
				if got, err = b.converseRow(row, policies[mainPolicies-1].Prefix+"item"); err != nil {
					t.Error(err)
				}
				if got == want.outcome {
					break
				}
			}
			if got != want.outcome {
				t.Errorf("%s: got %q, want %q (%s)", row.doc, got, want.outcome, want.declared)
			}
		})
		report.add(arm, row, got)
	}
	b.check(checkUpdate, b.updateRequests)
	b.check(checkRemove, b.remove)
	b.check(checkCrash, b.crash)
}

// serveRequests starts the server's program in its namespace, and finds both namespaces.
func (b *bench) serveRequests() error {
	var err error
	if b.client, err = openNetns(b.h, datapath.Client); err != nil {
		return err
	}
	if b.server, err = openNetns(b.h, datapath.Server); err != nil {
		return err
	}
	start, files := bundle.HTTPServer("conformance-http", b.serverAddr().String(), datapath.ServicePort)
	_, err = b.h.exec(files, []bundle.Step{{Node: b.set.Topology.Server.Node.Name, Phase: bundle.Run, In: datapath.Server, Do: start}})
	return err
}

// requestSilence is how long nothing may come back of a denied request. What is dropped is
// sent again after 0.2 s and later.
const requestSilence = 1500 * time.Millisecond

func (b *bench) converseRow(row requestRow, admitted string) (string, error) {
	try := row.try
	switch {
	case row.http2 && b.inCgroup():
		try = bundle.RequestTry{Parts: []string{http2Preface}, Requests: 1}
	case row.http2:
		return b.http2(row.want[b.arm.Filter].outcome, admitted)
	}
	try.Want = row.want[b.arm.Filter].outcome
	return b.request(try)
}

// http2Preface is what a connection of HTTP/2 begins with (RFC 9113, 3.4).
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// inCgroup: the arm judges what programs of the client's cgroup send, and this test is in
// another one.
func (b *bench) inCgroup() bool { return b.arm.Filter == l7SKMSG }

// request makes the requests of a try from the client.
func (b *bench) request(try bundle.RequestTry) (string, error) {
	if b.inCgroup() {
		do := bundle.Requests{To: b.serverAddr().String(), Port: datapath.ServicePort, Timeout: requestSilence.Seconds(), Tries: []bundle.RequestTry{try}, InCgroup: true}
		_, err := b.h.exec(nil, []bundle.Step{{Node: b.set.Topology.Client.Node.Name, Phase: bundle.Run, In: datapath.Client, Do: do}})
		if err != nil {
			return "", err
		}
		return try.Want, nil // else the step had failed
	}
	conn, err := b.client.dial(b.clientAddr(), netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort), allowLimit)
	if err != nil {
		return "", err
	}
	defer hangUp(conn)
	return probe.Converse(conn, try, allowLimit, requestSilence)
}

// http2 makes an admitted and a forbidden request on one connection of HTTP/2 by prior
// knowledge (RFC 9113, 3.3).
func (b *bench) http2(want, admitted string) (string, error) {
	limit := allowLimit
	if want == bundle.RequestSilent {
		limit = requestSilence
	}
	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	connections := 0
	transport := &http.Transport{Protocols: &only, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, DialContext: func(context.Context, string, string) (net.Conn, error) {
		connections++
		return b.client.dial(b.clientAddr(), netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort), allowLimit)
	}}
	defer transport.CloseIdleConnections()
	var got []string
	for _, path := range []string{admitted, "/secret"} {
		ctx, cancel := context.WithTimeout(b.t.Context(), limit)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort), path), nil)
		if err != nil {
			return "", err
		}
		answer, err := transport.RoundTrip(r)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return strings.Join(append(got, bundle.RequestSilent), " "), nil
		case err != nil:
			return "", err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return "", err
		}
		got = append(got, strconv.Itoa(answer.StatusCode))
	}
	if connections != 1 {
		return "", fmt.Errorf("two requests of HTTP/2 took %d connections", connections)
	}
	return strings.Join(got, " "), nil
}

// updateRequests adds a policy and takes it out again: its request is denied before and
// after, and answered in between.
func (b *bench) updateRequests() error {
	if len(b.set.Update) == 0 {
		return none("a proxy reads its policies when it starts")
	}
	extra := datapath.ExtraRequest()
	try := func(want string) error {
		got, err := b.request(bundle.RequestTry{Parts: []string{extra.Method + " " + extra.Prefix + "item HTTP/1.1\r\nHost: server\r\n\r\n"}, Requests: 1, Want: want})
		if err == nil && got != want {
			err = fmt.Errorf("the request of the updated policy got %q, want %q", got, want)
		}
		return err
	}
	step := func(steps []bundle.Step) error {
		_, err := b.h.exec(b.set.Files, steps)
		return err
	}
	denied := bundle.RequestSilent
	if b.inCgroup() {
		denied = bundle.RequestUnsent
	}
	if err := try(denied); err != nil {
		return err
	}
	if err := step(b.set.Update); err != nil {
		return err
	}
	if err := try("200"); err != nil {
		return err
	}
	if err := step(b.set.Revert); err != nil {
		return err
	}
	return try(denied)
}

// RequestReport collects the rows' outcomes.
type RequestReport struct {
	mu   sync.Mutex
	rows []string
	got  map[string]map[string]string // by row and filter
}

func (r *RequestReport) add(a Arm, row requestRow, got string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got == nil {
		r.got = map[string]map[string]string{}
	}
	if r.got[row.name] == nil {
		r.rows = append(r.rows, row.name)
		r.got[row.name] = map[string]string{}
	}
	if row.want[a.Filter].declared != "" {
		got += " (declared)"
	}
	r.got[row.name][a.Filter] = got
}

// Markdown is a table with a line for each row, and a column for each filter.
func (r *RequestReport) Markdown() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	filters := []string{l7HAProxy, l7Nginx, l7Nft, l7String, l7TC, l7SKSKB, l7SKMSG}
	var b strings.Builder
	fmt.Fprintf(&b, "| what | %s |\n|---|%s\n", strings.Join(filters, " | "), strings.Repeat("---|", len(filters)))
	for _, name := range r.rows {
		b.WriteString("| " + name + " |")
		for _, f := range filters {
			b.WriteString(" " + r.got[name][f] + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}
