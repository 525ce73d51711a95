package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
)

// Identities of the test's sources in tc policies.
const (
	clientID   uint32 = 256
	strangerID uint32 = 257
)

// verdict is what a case expects of every program that enforces.
type verdict int

const (
	admit verdict = iota
	drop
	pass // none of the policy's business
)

// rule is a policy in the words of both objects. The zero source is any.
type rule struct {
	src   netip.Addr
	port  uint16
	proto uint8
	deny  bool
}

// onlyClient is the policy of most cases: one source, one port, TCP.
var onlyClient = []rule{{src: client, port: 5001, proto: protoTCP}}

type verdictCase struct {
	name  string
	frame []byte
	rules []rule
	want  verdict
}

// verdictCases hold for every program that enforces policy on the server, with
// every structure that can express the rules.
func verdictCases(six bool) []verdictCase {
	tcp, udp, ping := frame{six: six}, frame{six: six, proto: protoUDP}, frame{six: six, proto: protoICMP}
	from := func(src netip.Addr) frame { return frame{six: six, src: src} }
	to := func(port uint16) frame { return frame{six: six, dport: port} }
	tags := func(tags ...uint16) frame { return frame{six: six, tags: tags} }
	any := netip.Addr{}
	arp := make([]byte, 28)
	common := slices.Concat([]verdictCase{
		{"allowed", tcp.bytes(), onlyClient, admit},
		{"allowed, opening", frame{six: six, flags: tcpSYN}.bytes(), onlyClient, admit},
		{"allowed UDP", udp.bytes(), []rule{{src: client, port: 5001, proto: protoUDP}}, admit},
		{"allowed ping", ping.bytes(), []rule{{src: client, proto: protoICMP}}, admit},
		{"other source", from(stranger).bytes(), onlyClient, drop},
		{"other port", to(5002).bytes(), onlyClient, drop},
		{"other protocol, UDP", udp.bytes(), onlyClient, drop},
		{"other protocol, ping", ping.bytes(), onlyClient, drop},
		{"other protocol, ESP", frame{six: six, proto: 50}.bytes(), onlyClient, drop},
		{"no policy at all", tcp.bytes(), nil, drop},

		{"source on any port", to(9).bytes(), []rule{{src: client}}, admit},
		{"source on any port, other source", from(stranger).bytes(), []rule{{src: client}}, drop},
		{"source on any port, ping", ping.bytes(), []rule{{src: client}}, admit},
		{"any source on port", from(stranger).bytes(), []rule{{src: any, port: 5001, proto: protoTCP}}, admit},
		{"any source on port, other port", to(9).bytes(), []rule{{src: any, port: 5001, proto: protoTCP}}, drop},
		{"any source on port, UDP", udp.bytes(), []rule{{src: any, port: 5001, proto: protoTCP}}, drop},
		{"any source on any port", frame{six: six, src: stranger, dport: 9, proto: protoUDP}.bytes(), []rule{{}}, admit},

		{"denied exactly, any admitted", tcp.bytes(), []rule{{src: client, port: 5001, proto: protoTCP, deny: true}, {}}, drop},
		{"denied source, any admitted", tcp.bytes(), []rule{{src: client, deny: true}, {}}, drop},
		{"denied port, source admitted", tcp.bytes(), []rule{{src: client}, {src: any, port: 5001, proto: protoTCP, deny: true}}, admit},
		{"any denied, admitted exactly", tcp.bytes(), append([]rule{{deny: true}}, onlyClient...), admit},
		{"any denied", to(9).bytes(), append([]rule{{deny: true}}, onlyClient...), drop},

		{"ARP", ethernet(etherARP, arp), onlyClient, pass},
		{"ARP in two VLANs", ethernet(etherARP, arp, etherQinQ, etherVLAN), onlyClient, pass},
		{"the other family", otherFamily(six).bytes(), onlyClient, pass},
		{"the other family in VLAN", otherFamily(six, etherVLAN).bytes(), onlyClient, pass},
		{"other destination", frame{six: six, dst: elsewhere}.bytes(), onlyClient, pass},
		{"other destination in VLAN", frame{six: six, dst: elsewhere, tags: []uint16{etherVLAN}}.bytes(), onlyClient, pass},

		{"one VLAN", tags(etherVLAN).bytes(), onlyClient, drop},
		{"one service VLAN", tags(etherQinQ).bytes(), onlyClient, drop},
		{"two VLANs", tags(etherQinQ, etherVLAN).bytes(), onlyClient, drop},
		{"two VLANs, any admitted", tags(etherVLAN, etherVLAN).bytes(), []rule{{}}, drop},
		{"three VLANs", tags(etherQinQ, etherVLAN, etherVLAN).bytes(), []rule{{}}, drop},
		{"IP version 5", patched(tcp, 0, 5<<4|5), []rule{{}}, drop},
		{"trailing padding", append(tcp.bytes(), make([]byte, 6)...), onlyClient, admit},
	},
		cut("TCP", tcp.bytes(), 20),
		cut("UDP", udp.bytes(), 8),
		cut("ping", ping.bytes(), 8),
		cut("one VLAN", tags(etherVLAN).bytes(), 0),
		cut("two VLANs", tags(etherQinQ, etherVLAN).bytes(), 0),
	)
	if six {
		return append(common, verdictCases6()...)
	}
	return append(common, verdictCases4()...)
}

// verdictCases4 are about what only IPv4 has.
func verdictCases4() []verdictCase {
	tcp := frame{}
	return slices.Concat([]verdictCase{
		{"IP options", frame{options: make([]byte, 12)}.bytes(), onlyClient, admit},
		{"all IP options", frame{options: make([]byte, 40)}.bytes(), onlyClient, admit},
		{"IP options, other port", frame{options: make([]byte, 40), dport: 5002}.bytes(), onlyClient, drop},
		{"first fragment", frame{frag: moreFrags}.bytes(), onlyClient, admit},
		{"first fragment, other port", frame{frag: moreFrags, dport: 5002}.bytes(), onlyClient, drop},
		{"middle fragment", frame{frag: moreFrags | 100}.bytes(), onlyClient, drop},
		{"last fragment", frame{frag: 100}.bytes(), onlyClient, drop},
		{"last fragment, any admitted", frame{frag: 1}.bytes(), []rule{{}}, drop},
		{"other destination, later fragment", frame{dst: elsewhere, frag: 100}.bytes(), onlyClient, pass},
		{"header length 4 words", patched(tcp, 0, 4<<4|4), []rule{{}}, drop},
		{"header length beyond the frame", patched(tcp, 0, 4<<4|15), []rule{{}}, drop},
		{"total length ends in TCP", frame{totLen: 39}.bytes(), onlyClient, drop},
		{"total length ends in UDP", frame{totLen: 27, proto: protoUDP}.bytes(), []rule{{}}, drop},
		{"total length below the header", frame{totLen: 10}.bytes(), onlyClient, drop},
		{"ICMPv6 is none here", frame{proto: protoICMPv6, l4: []byte{135, 0, 0, 0, 0, 0, 0, 0}}.bytes(), onlyClient, drop},
	}, cut("TCP after options", frame{options: make([]byte, 40)}.bytes(), 20))
}

// verdictCases6 are about what only IPv6 has.
func verdictCases6() []verdictCase {
	with := func(x ...extension) frame { return frame{six: true, extensions: x} }
	other := func(x ...extension) frame { return frame{six: true, extensions: x, dport: 5002} }
	icmp := func(kind byte) frame {
		return frame{six: true, src: stranger, proto: protoICMP, l4: []byte{kind, 0, 0, 0, 0, 0, 0, 0}}
	}
	hop, route, dest := options6(protoHopByHop, 0), options6(protoRouting, 2), options6(protoDestination, 0)
	whole := fragment6(0, false)
	cases := []verdictCase{
		{"four extension headers", with(hop, dest, route, auth(4)).bytes(), onlyClient, admit},
		{"four extension headers, other port", other(hop, dest, route, auth(4)).bytes(), onlyClient, drop},
		{"five extension headers", with(hop, dest, route, auth(4), dest).bytes(), []rule{{}}, drop},
		{"the longest extension header", with(options6(protoHopByHop, 20)).bytes(), onlyClient, admit},
		{"the longest extension header, other port", other(options6(protoHopByHop, 20)).bytes(), onlyClient, drop},
		{"length ends in an extension header", frame{six: true, extensions: []extension{dest}, totLen: 20}.bytes(), onlyClient, drop},
		{"length ends in TCP", frame{six: true, totLen: 19}.bytes(), onlyClient, drop},
		{"length ends in TCP behind an extension header", frame{six: true, extensions: []extension{dest}, totLen: 27}.bytes(), onlyClient, drop},
		{"no length", frame{six: true, totLen: -65536}.bytes(), onlyClient, admit},
		{"whole in a fragment header", with(whole).bytes(), onlyClient, admit},
		{"first fragment", with(fragment6(0, true)).bytes(), onlyClient, admit},
		{"first fragment, other port", other(fragment6(0, true)).bytes(), onlyClient, drop},
		{"middle fragment", with(fragment6(100, true)).bytes(), onlyClient, drop},
		{"last fragment, any admitted", with(fragment6(1, false)).bytes(), []rule{{}}, drop},
		{"later fragment behind another header", with(hop, fragment6(1, false)).bytes(), []rule{{}}, drop},
		{"other destination, later fragment", frame{six: true, dst: elsewhere, extensions: []extension{fragment6(1, true)}}.bytes(), onlyClient, pass},
		{"nothing follows", frame{six: true, proto: 59}.bytes(), onlyClient, drop},
		{"ICMP of IPv4 is none here", frame{six: true, proto: protoICMPv6, l4: []byte{3, 0, 0, 0, 0, 0, 0, 0}}.bytes(), onlyClient, drop},
		{"neighbour solicitation, cut", icmp(135).bytes()[:etherSize+40+7], []rule{{}}, drop},
		{"neighbour solicitation in VLAN", frame{six: true, tags: []uint16{etherVLAN}, proto: protoICMP, l4: icmp(135).l4}.bytes(), []rule{{}}, drop},
		{"below discovery", icmp(132).bytes(), onlyClient, drop},
		{"above discovery", icmp(138).bytes(), onlyClient, drop},
	}
	for kind := byte(133); kind <= 137; kind++ {
		cases = append(cases, verdictCase{fmt.Sprintf("discovery %d", kind), icmp(kind).bytes(), nil, pass})
	}
	for _, x := range []extension{hop, route, dest, whole, auth(1)} {
		cases = append(cases,
			verdictCase{fmt.Sprintf("extension header %d", x.proto), with(x).bytes(), onlyClient, admit},
			verdictCase{fmt.Sprintf("extension header %d, other port", x.proto), other(x).bytes(), onlyClient, drop})
	}
	return slices.Concat(cases,
		cut("TCP after extension headers", with(hop, auth(4)).bytes(), 20),
		cut("unknown protocol after extension headers", frame{six: true, extensions: []extension{dest}, proto: 50, l4: []byte{}}.bytes(), 0))
}

// otherFamily is a packet of the other family to no endpoint here.
func otherFamily(six bool, tags ...uint16) frame {
	return frame{six: !six, dst: elsewhere, tags: tags}
}

// patched sets a byte of a frame's IP header.
func patched(f frame, offset int, value byte) []byte {
	b := f.bytes()
	b[etherSize+offset] = value
	return b
}

// cut ends a frame at every byte from the end of Ethernet to the last of its
// headers, of which the one for the transport has a size: all are dropped,
// though the policy admits anything. The policy admits the whole frame, which
// shows that the cut is what matters, unless it is dropped for its tags.
func cut(name string, whole []byte, transport int) []verdictCase {
	var out []verdictCase
	for n := etherSize; n < len(whole); n++ {
		out = append(out, verdictCase{fmt.Sprintf("%s cut at byte %d", name, n), whole[:n], []rule{{}}, drop})
	}
	if transport > 0 {
		out = append(out, verdictCase{name + " uncut", whole, []rule{{}}, admit})
	}
	return out
}

// setRules makes rules the only ones of a rig, whatever it keeps them in.
func (r *rig) setRules(rules []rule) {
	r.t.Helper()
	fills, tables := XDPFills, XDPTables
	if r.coll.Maps[MapIdentities] != nil {
		fills, tables = TCFills, TCTables
	}
	for _, m := range tables(r.structure, r.six) {
		r.clear(m)
	}
	fs, err := fills(r.structure, policiesOf(rules, r.structure, r.six))
	if err != nil {
		r.t.Fatal(err)
	}
	r.apply(fs)
}

// policiesOf writes rules in the types of the package. A list gets them in the
// order in which a hash looks them up.
func policiesOf(rules []rule, s Structure, six bool) []Policy {
	var ps []Policy
	for _, x := range rules {
		ps = append(ps, x.policy(six))
	}
	if s == StructureLinear {
		slices.SortStableFunc(ps, func(a, b Policy) int { return int(Wildcards(a)) - int(Wildcards(b)) })
	}
	return ps
}

func (x rule) policy(six bool) Policy {
	p := Policy{Port: x.port, Proto: x.proto, Deny: x.deny}
	if six && p.Proto == protoICMP {
		p.Proto = protoICMPv6
	}
	source, any := x.src, !x.src.IsValid()
	if any {
		source = netip.IPv4Unspecified()
	}
	if six {
		source = as6(source)
	}
	p.Source = netip.PrefixFrom(source, source.BitLen())
	if any {
		p.Source = netip.PrefixFrom(source, 0)
	}
	return p
}

// clear empties a map. Elements of an array become zero.
func (r *rig) clear(m string) {
	r.t.Helper()
	if isArray(m) {
		zero := make([]byte, r.coll.Maps[m].ValueSize())
		for i := range 4 { // no test here fills more
			r.put(m, listKey(i), zero)
		}
		return
	}
	var keys [][]byte
	var key, value []byte
	it := r.coll.Maps[m].Iterate()
	for it.Next(&key, &value) {
		keys = append(keys, bytes.Clone(key))
	}
	for _, k := range keys {
		r.remove(m, k)
	}
}

func eachFamily(t *testing.T, r *rig, f func(t *testing.T, r *rig, c verdictCase)) {
	for _, six := range []bool{false, true} {
		for _, c := range verdictCases(six) {
			t.Run(fmt.Sprintf("v6=%v/%s", six, c.name), func(t *testing.T) {
				r := r.with(t)
				r.six = six
				r.setRules(c.rules)
				f(t, r, c)
			})
		}
	}
}

// TestVerdictsOfXDP: every structure, every case.
func TestVerdictsOfXDP(t *testing.T) {
	wants := map[verdict]outcome{admit: {ret: xdpPass, stat: int(StatAccepted)}, drop: {ret: xdpDrop, stat: int(StatDropped)}, pass: {ret: xdpPass, stat: int(StatPassed)}}
	for _, s := range xdpStructures() {
		t.Run(s.name(), func(t *testing.T) {
			r := loadXDPStructure(t, s, nil, map[string]any{VarWildcards: uint8(15)})
			eachFamily(t, r, func(t *testing.T, r *rig, c verdictCase) {
				want := wants[c.want]
				checkUntouched(t, c.frame, r.want(ProgXDP, c.frame, want.ret, uint32(want.stat)).frame)
			})
		})
	}
}

// TestVerdictsOfTC: every structure that can express all cases, every case, and
// every program that joins endpoints.
func TestVerdictsOfTC(t *testing.T) {
	for _, s := range xdpStructures() {
		for _, when := range enforceWhen() {
			for peer := range uint8(2) {
				t.Run(fmt.Sprintf("%s/%s,use_peer=%d", s.name(), when.name, peer), func(t *testing.T) {
					r := load(t, DatapathObject(), when.with(map[string]any{VarStructure: uint8(s), VarUsePeer: peer}), smallConntrack)
					r.serverEndpoint(true)
					for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
						t.Run(program, func(t *testing.T) { verdictsOfTC(t, r, when, program) })
					}
				})
			}
		}
	}
}

func verdictsOfTC(t *testing.T, r *rig, w when, program string) {
	eachFamily(t, r, func(t *testing.T, r *rig, c verdictCase) {
		if untestable(c.frame) {
			return // TestVerdictsOnTheWire has it
		}
		r.forget()
		switch c.want {
		case admit:
			out := r.want(program, c.frame, actRedirect, StatAccepted)
			checkForwarded(t, c.frame, out.frame, serverMAC, serverGW)
			want := 1
			if w.policyFirst == 1 && midTCP(c.frame) {
				want = 0 // by its own flags it opens nothing
			}
			wantEntries(t, r, want)
		case drop:
			out := r.want(program, c.frame, actShot, StatDropped)
			checkUntouched(t, c.frame, out.frame)
			wantEntries(t, r, 0)
		case pass:
			out := r.want(program, c.frame, actOK, StatPassed)
			checkUntouched(t, c.frame, out.frame)
		}
	})
}

// midTCP reports whether an admitted frame is of TCP and not the first of a connection.
func midTCP(f []byte) bool {
	ip := f[etherSize:]
	if ip[0]>>4 == 4 {
		return ip[9] == protoTCP && ip[int(ip[0]&15)*4+13]&tcpSYN == 0
	}
	next, rest := ip[6], ip[40:]
	for next != protoTCP && next != protoUDP && next != protoICMPv6 {
		size := 8 + 8*int(rest[1])
		switch next {
		case protoFragment:
			size = 8
		case protoAH:
			size = 8 + 4*int(rest[1])
		}
		next, rest = rest[0], rest[size:]
	}
	return next == protoTCP && rest[13]&tcpSYN == 0
}

// TestVerdictsOfGuard: the program that redirects nothing decides alike, and
// leaves every packet as it was.
func TestVerdictsOfGuard(t *testing.T) {
	wants := map[verdict]outcome{admit: {ret: actOK, stat: int(StatAccepted)}, drop: {ret: actShot, stat: int(StatDropped)}, pass: {ret: actOK, stat: int(StatPassed)}}
	for _, s := range xdpStructures() {
		for _, when := range enforceWhen() {
			t.Run(s.name()+"/"+when.name, func(t *testing.T) {
				r := loadGuard(t, s, nil, when.with(map[string]any{VarWildcards: uint8(15)}))
				eachFamily(t, r, func(t *testing.T, r *rig, c verdictCase) {
					if untestable(c.frame) {
						return
					}
					r.forget()
					want := wants[c.want]
					checkUntouched(t, c.frame, r.want(ProgToEndpoint, c.frame, want.ret, uint32(want.stat)).frame)
				})
			})
		}
	}
}

// forget empties the connections.
func (r *rig) forget() {
	r.t.Helper()
	r.clear(MapConntrack)
	r.clear(MapConntrack6)
}

func wantEntries(t testing.TB, r *rig, n int) {
	t.Helper()
	if got := r.entries(MapConntrack) + r.entries(MapConntrack6); got != n {
		t.Errorf("%d conntrack entries, want %d", got, n)
	}
}

func checkUntouched(t *testing.T, sent, got []byte) {
	t.Helper()
	if !bytes.Equal(got, sent) {
		t.Errorf("the frame was changed:\n% x\n% x", start(sent), start(got))
	}
}

// checkForwarded checks that a frame came out as a router sends it on: new
// MACs, TTL one less, a right checksum, all else as before.
func checkForwarded(t *testing.T, sent, got []byte, dst, src net.HardwareAddr) {
	t.Helper()
	want := bytes.Clone(sent)
	copy(want, dst)
	copy(want[6:], src)
	if want[etherSize]>>4 == 6 {
		want[etherSize+7]--
	} else {
		header := want[etherSize : etherSize+int(want[etherSize]&15)*4]
		header[8]--
		header[10], header[11] = 0, 0
		binary.BigEndian.PutUint16(header[10:], checksum(header))
	}
	if !bytes.Equal(got, want) {
		t.Errorf("forwarded frame:\n% x, want\n% x", start(got), start(want))
	}
}

// start is as much of a frame as a message needs.
func start(f []byte) []byte { return f[:min(len(f), 100)] }

// TestChecksumOfEveryTTL sends packets of all TTLs and many checksums.
func TestChecksumOfEveryTTL(t *testing.T) {
	r := loadTC(t, when{}, 0)
	r.serverEndpoint(false)
	for ttl := 2; ttl < 256; ttl++ {
		for i := range 16 {
			f := frame{ttl: ttl, totLen: 40 + i*4099, proto: uint8(1 + i*7), l4: make([]byte, 20)}
			out := r.want(ProgFromNetdev, f.bytes(), actRedirect, StatPassed)
			checkForwarded(t, f.bytes(), out.frame, serverMAC, serverGW)
		}
	}
}

// TestTimeIsUp: whether a policy admits it is decided first; then the stack
// answers for it.
func TestTimeIsUp(t *testing.T) {
	r := loadTC(t, when{}, 0)
	r.serverEndpoint(true)
	r.setRules(onlyClient)
	for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
		for _, ttl := range []int{-1, 1} {
			f := frame{ttl: ttl}
			out := r.want(program, f.bytes(), actOK, StatAccepted)
			checkUntouched(t, f.bytes(), out.frame)
			r.want(program, frame{ttl: ttl, dport: 5002}.bytes(), actShot, StatDropped)
		}
	}
	r.want(ProgFromEndpoint, frame{ttl: 1, dst: elsewhere}.bytes(), actOK, StatPassed)
}

// TestEndpointWithoutPolicy: everything is delivered that can be, and nothing
// counts as accepted.
func TestEndpointWithoutPolicy(t *testing.T) {
	r := loadTC(t, when{}, 0)
	r.serverEndpoint(false)
	delivered := map[string][]byte{
		"data":             frame{}.bytes(),
		"other source":     frame{src: stranger, dport: 9}.bytes(),
		"ping":             frame{proto: protoICMP}.bytes(),
		"ICMP error":       frame{proto: protoICMP, l4: icmpError(3, frame{})}.bytes(),
		"later fragment":   frame{frag: 100}.bytes(),
		"cut TCP":          frame{}.bytes()[:etherSize+20+5],
		"cut at TCP":       frame{}.bytes()[:etherSize+20],
		"IP options":       frame{options: make([]byte, 8)}.bytes(),
		"wrong total size": frame{totLen: 22}.bytes(),
	}
	for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
		for name, f := range delivered {
			t.Run(program+"/"+name, func(t *testing.T) {
				r := r.with(t)
				out := r.want(program, f, actRedirect, StatPassed)
				checkForwarded(t, f, out.frame, serverMAC, serverGW)
			})
		}
		r.want(program, frame{tags: []uint16{etherVLAN}}.bytes(), actOK, StatPassed)
		r.want(program, frame{ttl: 1}.bytes(), actOK, StatPassed)
	}
}

// TestWorldIdentity: a source without identity is the world's.
func TestWorldIdentity(t *testing.T) {
	r := loadTC(t, when{}, 0)
	r.serverEndpoint(true)
	r.put(MapPolicy, PolicyKey(IdentityWorld, 5001, protoTCP), PolicyValue(false, 0))
	r.want(ProgFromNetdev, frame{src: elsewhere}.bytes(), actRedirect, StatAccepted)
	r.want(ProgFromNetdev, frame{src: stranger}.bytes(), actShot, StatDropped)
}

// TestReply: what answers an endpoint's own connection needs no policy, be the
// other end on this node or not; an opening packet is never an answer.
func TestReply(t *testing.T) {
	for _, c := range []struct {
		name, out, back string
		peer            netip.Addr
		local           bool
		first           frame
	}{
		{"same node", ProgFromEndpoint, ProgFromEndpoint, client, true, frame{flags: tcpSYN}},
		{"same node UDP", ProgFromEndpoint, ProgFromEndpoint, client, true, frame{proto: protoUDP}},
		{"other node", ProgFromEndpoint, ProgFromNetdev, elsewhere, false, frame{flags: tcpSYN}},
		{"other node UDP", ProgFromEndpoint, ProgFromNetdev, elsewhere, false, frame{proto: protoUDP}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWhen(t, func(t *testing.T, w when) {
				r := loadTC(t, w, 0)
				r.serverEndpoint(true) // enforces, and no policy admits anything
				if c.local {
					r.endpoint(client, 7, clientMAC.String(), clientGW.String(), false)
				}
				out := c.first
				out.src, out.dst = server, c.peer
				back := out.reply()
				back.flags = tcpSYN | tcpACK
				r.want(c.back, back.bytes(), actShot, StatDropped)
				r.run(c.out, out.bytes(), 0)
				wantEntries(t, r, 1)
				r.want(c.back, back.bytes(), actRedirect, StatAccepted)
				wantEntries(t, r, 1)

				other := back
				other.dport, other.proto, other.l4 = 40001, protoTCP, nil
				r.want(c.back, other.bytes(), actShot, StatDropped)
				if c.first.proto == protoICMP {
					back.l4 = nil // a request of the other end's own
					r.want(c.back, back.bytes(), actShot, StatDropped)
				}
				if c.first.proto == 0 {
					back.flags = tcpSYN
					r.want(c.back, back.bytes(), actShot, StatDropped)
				}
			})
		})
	}
}

// TestPing: an endpoint that requests an echo gets the reply, and is not opened to
// requests of the other end.
func TestPing(t *testing.T) {
	for _, c := range []struct {
		six                    bool
		request, reply, notice byte
	}{{false, 8, 0, 13}, {true, 128, 129, 139}} {
		eachWhen(t, func(t *testing.T, w when) {
			r := loadTC(t, w, 0)
			r.serverEndpoint(true)
			message := func(kind byte, out bool) []byte {
				f := frame{six: c.six, proto: protoICMP, l4: []byte{kind, 0, 0, 0, 0, 0, 0, 0}}
				if out {
					f.src, f.dst = server, elsewhere
				} else {
					f.src = elsewhere
				}
				return f.bytes()
			}
			r.want(ProgFromNetdev, message(c.reply, false), actShot, StatDropped)
			r.want(ProgFromEndpoint, message(c.request, true), actOK, StatPassed) // no route here
			r.want(ProgFromNetdev, message(c.reply, false), actRedirect, StatAccepted)
			r.want(ProgFromNetdev, message(c.request, false), actShot, StatDropped)
			r.want(ProgFromNetdev, message(c.notice, false), actShot, StatDropped)
		})
	}
}

// TestAnswersOpenNothing: an endpoint's answers are found under the tuple of
// the connection they belong to, and make no entry that would admit its peer.
func TestAnswersOpenNothing(t *testing.T) {
	eachWhen(t, func(t *testing.T, w when) {
		r := loadTC(t, w, 0)
		r.serverEndpoint(true)
		r.setRules(onlyClient)
		r.want(ProgFromNetdev, frame{flags: tcpSYN}.bytes(), actRedirect, StatAccepted)
		answer := frame{flags: tcpSYN | tcpACK}.reply()
		r.want(ProgFromEndpoint, answer.bytes(), actOK, StatPassed) // no route here
		complaint := frame{src: server, dst: client, proto: protoICMP, l4: icmpError(3, frame{})}
		r.want(ProgFromEndpoint, complaint.bytes(), actOK, StatPassed)
		wantEntries(t, r, 1)
		r.setRules(nil)
		want := outcome{ret: actShot, stat: int(StatDropped)}
		if w.newOnly == 1 {
			want = outcome{ret: actRedirect, stat: int(StatAccepted)}
		}
		r.want(ProgFromNetdev, frame{}.bytes(), want.ret, uint32(want.stat))
	})
}

// TestPolicyRemoved: what happens to a connection when its policy goes.
func TestPolicyRemoved(t *testing.T) {
	eachWhen(t, func(t *testing.T, w when) {
		r := loadTC(t, w, 0)
		r.serverEndpoint(true)
		r.setRules(onlyClient)
		r.want(ProgFromEndpoint, frame{flags: tcpSYN}.bytes(), actRedirect, StatAccepted)
		r.want(ProgFromEndpoint, frame{}.bytes(), actRedirect, StatAccepted)
		r.setRules(nil)
		if w.newOnly == 1 {
			r.want(ProgFromEndpoint, frame{}.bytes(), actRedirect, StatAccepted)
		} else {
			r.want(ProgFromEndpoint, frame{}.bytes(), actShot, StatDropped)
		}
		// The next connection is new even if it has the old one's ports.
		r.want(ProgFromEndpoint, frame{flags: tcpSYN}.bytes(), actShot, StatDropped)
		r.want(ProgFromEndpoint, frame{sport: 40001}.bytes(), actShot, StatDropped)
	})
}

// TestPolicyAdded: a connection from before there was any policy must be
// admitted by one when there is, whenever policy is looked up.
func TestPolicyAdded(t *testing.T) {
	eachWhen(t, func(t *testing.T, w when) {
		r := loadTC(t, w, 0)
		r.serverEndpoint(false)
		r.want(ProgFromEndpoint, frame{flags: tcpSYN}.bytes(), actRedirect, StatPassed)
		r.serverEndpoint(true)
		r.want(ProgFromEndpoint, frame{}.bytes(), actShot, StatDropped)
		r.setRules(onlyClient)
		r.want(ProgFromEndpoint, frame{}.bytes(), actRedirect, StatAccepted)
		r.setRules(nil)
		want := outcome{ret: actShot, stat: int(StatDropped)}
		if w.newOnly == 1 {
			want = outcome{ret: actRedirect, stat: int(StatAccepted)}
		}
		r.want(ProgFromEndpoint, frame{}.bytes(), want.ret, uint32(want.stat))
	})
}

// TestICMPError: an error about a tracked packet of the endpoint passes; one
// about anything else needs a policy, and none opens a flow.
func TestICMPError(t *testing.T) {
	sent := frame{}.reply() // what the server sent to the client
	for _, c := range []struct {
		name string
		kind byte
		src  netip.Addr
		l4   func() []byte
		want verdict
	}{
		{"unreachable", 3, elsewhere, func() []byte { return icmpError(3, sent) }, admit},
		{"source quench", 4, elsewhere, func() []byte { return icmpError(4, sent) }, admit},
		{"redirect", 5, elsewhere, func() []byte { return icmpError(5, sent) }, admit},
		{"time exceeded", 11, client, func() []byte { return icmpError(11, sent) }, admit},
		{"parameter problem", 12, client, func() []byte { return icmpError(12, sent) }, admit},
		{"about a packet with options", 3, client, func() []byte { f := sent; f.options = make([]byte, 40); return icmpError(3, f) }, admit},
		{"about another flow", 3, client, func() []byte { f := sent; f.sport++; return icmpError(3, f) }, drop},
		{"about another's packet", 3, client, func() []byte { return icmpError(3, frame{}) }, drop},
		{"about a later fragment", 3, client, func() []byte { f := sent; f.frag = 100; return icmpError(3, f) }, drop},
		{"quotes nothing", 3, client, func() []byte { return icmpError(3, sent)[:8] }, drop},
		{"quotes half a header", 3, client, func() []byte { return icmpError(3, sent)[:20] }, drop},
		{"quotes no port", 3, client, func() []byte { return icmpError(3, sent)[:30] }, drop},
		{"no error", 13, client, func() []byte { return icmpError(13, sent) }, drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWhen(t, func(t *testing.T, w when) {
				r := loadTC(t, w, 0)
				r.serverEndpoint(true)
				r.setRules(onlyClient)
				errorAbout(r, ProgFromNetdev, actRedirect, frame{src: c.src, proto: protoICMP, l4: c.l4()}, c.want)
			})
		})
	}
}

// errorAbout sends an ICMP error before there is the connection that it may be
// about, once the client has opened it, and with a policy that admits ICMP. goes is
// the return code of what is admitted.
func errorAbout(r *rig, program string, goes uint32, f frame, want verdict) {
	r.t.Helper()
	r.want(program, f.bytes(), actShot, StatDropped)
	r.want(program, frame{six: f.six, flags: tcpSYN}.bytes(), goes, StatAccepted)
	if want == admit {
		r.want(program, f.bytes(), goes, StatAccepted)
	} else {
		r.want(program, f.bytes(), actShot, StatDropped)
	}
	wantEntries(r.t, r, 1)
	r.setRules([]rule{{proto: protoICMP}})
	r.want(program, f.bytes(), goes, StatAccepted)
}

// TestXDPWithoutPolicy: enforce = 0 lets everything through.
func TestXDPWithoutPolicy(t *testing.T) {
	r := loadXDP(t, 0)
	r.want(ProgXDP, frame{}.bytes(), xdpPass, StatAccepted)
	r.want(ProgXDP, frame{frag: 100}.bytes(), xdpPass, StatAccepted)
	r.want(ProgXDP, frame{tags: []uint16{etherVLAN}}.bytes(), xdpPass, StatAccepted)
	r.want(ProgXDP, frame{}.bytes()[:etherSize+20], xdpPass, StatAccepted)
	r.want(ProgXDP, frame{}.bytes()[:etherSize+19], xdpPass, StatPassed)
	r.want(ProgXDP, frame{dst: client}.bytes(), xdpPass, StatPassed)
}

// TestXDPPass: the control touches nothing, whatever it gets.
func TestXDPPass(t *testing.T) {
	r := loadXDP(t, 1)
	for _, c := range slices.Concat(verdictCases(false), verdictCases(true)) {
		t.Run(c.name, func(t *testing.T) {
			r := r.with(t)
			out := r.want(ProgXDPPass, c.frame, xdpPass, StatPassed)
			checkUntouched(t, c.frame, out.frame)
		})
	}
}

const hasFrags = 1 << 5 // BPF_F_XDP_HAS_FRAGS, Linux 5.18

// needFrags leaves a test out on kernels without drivers' multi-buffer mode.
func needFrags(t *testing.T) {
	t.Helper()
	if v, err := features.LinuxVersionCode(); err != nil || v < 5<<16|18<<8 {
		t.Skipf("this kernel's version is %#x (%v): it has no multi-buffer XDP", v, err)
	}
}

// TestXDPWithFragments: the programs also load for drivers' multi-buffer mode
// (xdp.frags, Linux 5.18).
func TestXDPWithFragments(t *testing.T) {
	needFrags(t)
	r := load(t, XDPObject(), map[string]any{VarEnforce: uint8(1), VarEndpointIP: [4]byte(IPKey(server)), VarEndpointIP6: [16]byte(IPKey(server6))}, func(s *ebpf.CollectionSpec) {
		for _, p := range s.Programs {
			p.Flags |= hasFrags
		}
	})
	r.setRules(onlyClient)
	r.want(ProgXDP, frame{}.bytes(), xdpPass, StatAccepted)
	r.want(ProgXDP, frame{dport: 9}.bytes(), xdpDrop, StatDropped)
}

// loadTunnel loads the programs with a tunnel; what is for elsewhere is behind it.
func loadTunnel(t testing.TB, checksum uint8) *rig {
	t.Helper()
	r := load(t, OverlayObject(), map[string]any{VarTunnelLink: uint32(tunnelLink), VarTunnelChecksum: checksum}, smallConntrack)
	r.put(MapIdentities, IPKey(client), IdentityValue(clientID))
	line := TunnelLine(netip.PrefixFrom(elsewhere, 24), netip.MustParseAddr("198.18.1.12"))
	key, value, _ := strings.Cut(line, " ")
	r.put(MapTunnels, unhex(t, key), unhex(t, value))
	return r
}

// tunnelLink is the index of no link.
const tunnelLink = 4343

// TestTunnelVerdicts: what an endpoint sends to another node goes into the
// tunnel as it is; what is for this one is judged as without; and what comes by
// the tunnel's device, but by no tunnel, is dropped. What comes by one needs a
// tunnel to come by: driver/guest has that test.
func TestTunnelVerdicts(t *testing.T) {
	for _, checksum := range []uint8{0, 1} {
		r := loadTunnel(t, checksum)
		r.serverEndpoint(true)
		r.put(MapPolicy, PolicyKey(clientID, 5001, protoTCP), PolicyValue(false, 0))
		away := frame{dst: elsewhere}.bytes()
		if got := r.want(ProgFromEndpointTunnel, away, actRedirect, StatPassed); !bytes.Equal(got.frame, away) {
			t.Errorf("the inner frame was changed:\n% x\n% x", got.frame, away)
		}
		r.want(ProgFromEndpointTunnel, frame{dst: netip.MustParseAddr("198.18.200.1")}.bytes(), actOK, StatPassed)
		r.want(ProgFromEndpointTunnel, frame{dst: elsewhere, tags: []uint16{etherVLAN}}.bytes(), actOK, StatPassed)
		r.want(ProgFromEndpointTunnel, frame{}.bytes(), actRedirect, StatAccepted)
		r.want(ProgFromEndpointTunnel, frame{src: stranger}.bytes(), actShot, StatDropped)
		r.want(ProgFromTunnel, frame{}.bytes(), actShot, StatDropped)
		if n := r.entries(MapConntrack); n == 0 {
			t.Error("what goes into the tunnel is not remembered")
		}
	}
}
