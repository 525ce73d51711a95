package bpf

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
)

// guarded is the server behind the programs that only guard, with a policy for
// the client's address on TCP port 5001.
func guarded(t *testing.T, six bool, vars map[string]any) *rig {
	t.Helper()
	ps := []Policy{{Source: host(frame{six: six}.filled().src), Port: 5001, Proto: protoTCP}}
	r := objects()[0].filled(t, StructureHash, ps, vars)
	r.six = six
	return r
}

// tracked runs a frame through the program for the other direction of the link, which
// neither counts nor changes packets.
func (r *rig) tracked(f []byte) {
	r.t.Helper()
	out := r.run(ProgTrack, f, 0)
	if out.ret != actOK || out.stat != -1 {
		r.t.Errorf("%s: %v, want return code %d and no count", ProgTrack, out, actOK)
	}
}

// TestGuardKnowsAnswers: answers to the endpoint's own connection need no policy;
// what the endpoint sends changes no other verdict.
func TestGuardKnowsAnswers(t *testing.T) {
	for _, six := range []bool{false, true} {
		for _, first := range []frame{{flags: tcpSYN}, {proto: protoUDP}, {proto: protoICMP}} {
			t.Run(fmt.Sprintf("v6=%v/%d", six, first.proto), func(t *testing.T) {
				r := guarded(t, six, nil)
				first.six, first.src, first.dst = six, server, stranger
				back := first.reply()
				back.flags = tcpSYN | tcpACK
				r.want(ProgToEndpoint, back.bytes(), actShot, StatDropped)
				r.tracked(first.bytes())
				wantEntries(t, r, 1)
				out := r.want(ProgToEndpoint, back.bytes(), actOK, StatAccepted)
				checkUntouched(t, back.bytes(), out.frame)
				r.tracked(first.bytes())
				wantEntries(t, r, 1)
				other := back
				other.src = elsewhere
				r.want(ProgToEndpoint, other.bytes(), actShot, StatDropped)
				if first.proto == 0 {
					back.flags = tcpSYN
					r.want(ProgToEndpoint, back.bytes(), actShot, StatDropped)
				}
			})
		}
	}
}

// TestAnswersOfTheGuardedOpenNothing: the endpoint's answers belong to the existing
// connection.
func TestAnswersOfTheGuardedOpenNothing(t *testing.T) {
	for _, six := range []bool{false, true} {
		r := guarded(t, six, nil)
		opening := frame{six: six, flags: tcpSYN}
		r.want(ProgToEndpoint, opening.bytes(), actOK, StatAccepted)
		answer := frame{six: six, flags: tcpSYN | tcpACK}.reply()
		r.tracked(answer.bytes())
		r.tracked(frame{six: six, src: server, dst: client, proto: protoICMP, l4: icmpError(unreachable(six), frame{six: six})}.bytes())
		r.tracked(frame{six: six, src: server, dst: client, frag: 100, extensions: []extension{fragment6(9, false)}}.bytes())
		r.tracked(ethernet(etherARP, make([]byte, 28)))
		r.tracked(frame{six: six, src: server, dst: client, tags: []uint16{etherVLAN}}.bytes())
		wantEntries(t, r, 1)
	}
}

func unreachable(six bool) byte {
	if six {
		return 1
	}
	return 3
}

// TestGuardWithoutPolicy: enforce = 0 passes every packet, and does not count it as
// accepted.
func TestGuardWithoutPolicy(t *testing.T) {
	for _, six := range []bool{false, true} {
		r := loadGuard(t, StructureHash, nil, map[string]any{VarEnforce: uint8(0)})
		for _, f := range []frame{{}, {src: stranger, dport: 9}, {proto: protoICMP}, {frag: 100, extensions: []extension{fragment6(9, false)}}, {tags: []uint16{etherVLAN}}} {
			f.six = six
			r.want(ProgToEndpoint, f.bytes(), actOK, StatPassed)
		}
	}
}

// TestPassStructure: with StructurePass every tc program passes or delivers packets,
// records no connection, and counts no packet as accepted.
func TestPassStructure(t *testing.T) {
	r := load(t, DatapathObject(), map[string]any{VarStructure: uint8(StructurePass), VarEnforce: uint8(1), VarEndpointIP: [4]byte(IPKey(server)), VarEndpointIP6: [16]byte(IPKey(server6))}, smallConntrack)
	r.serverEndpoint(true)
	for _, six := range []bool{false, true} {
		f := frame{six: six, src: stranger}.bytes()
		for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
			out := r.want(program, f, actRedirect, StatPassed)
			checkForwarded(t, f, out.frame, serverMAC, serverGW)
			r.want(program, frame{six: six, tags: []uint16{etherQinQ, etherVLAN, etherVLAN}}.bytes(), actOK, StatPassed)
		}
		r.want(ProgToEndpoint, f, actOK, StatPassed)
		r.tracked(frame{six: six}.reply().bytes())
	}
	wantEntries(t, r, 0)
}

// TestICMPv6Error is TestICMPError for IPv6, with extension headers before the
// message and in its quotation.
func TestICMPv6Error(t *testing.T) {
	sent := frame{six: true}.reply() // what the server answers the client
	dest, whole := options6(protoDestination, 1), fragment6(0, true)
	with := func(x ...extension) frame { f := sent; f.extensions = x; return f }
	for _, c := range []struct {
		name   string
		l4     []byte
		before []extension
		want   verdict
	}{
		{"unreachable", icmpError(1, sent), nil, admit},
		{"too big", icmpError(2, sent), nil, admit},
		{"time exceeded", icmpError(3, sent), nil, admit},
		{"parameter problem", icmpError(4, sent), nil, admit},
		{"of an unknown kind", icmpError(100, sent), nil, admit},
		{"behind an extension header", icmpError(1, sent), []extension{dest}, admit},
		{"about a packet with an extension header", icmpError(1, with(dest)), nil, admit},
		{"about a first fragment", icmpError(1, with(whole)), nil, admit},
		{"extension headers everywhere", icmpError(1, with(dest, whole)), []extension{dest, auth(1)}, admit},
		{"about a later fragment", icmpError(1, with(fragment6(7, false))), nil, drop},
		{"about another flow", func() []byte { f := sent; f.sport++; return icmpError(1, f) }(), nil, drop},
		{"about another's packet", icmpError(1, frame{six: true}), nil, drop},
		{"quotes nothing", icmpError(1, sent)[:8], nil, drop},
		{"quotes half a header", icmpError(1, sent)[:30], nil, drop},
		{"quotes no port", icmpError(1, sent)[:50], nil, drop},
		{"quotes half an extension header", icmpError(1, with(dest))[:52], nil, drop},
		{"no error", append([]byte{129, 0, 0, 0, 0, 0, 0, 0}, sent.packet()...), nil, drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := guarded(t, true, map[string]any{VarWildcards: uint8(15)})
			errorAbout(r, ProgToEndpoint, actOK, frame{six: true, src: elsewhere, proto: protoICMP, l4: c.l4, extensions: c.before}, c.want)
		})
	}
}

// TestXDPFragsOfIPv6: extension headers are walked in multi-buffer mode.
func TestXDPFragsOfIPv6(t *testing.T) {
	needFrags(t)
	r := load(t, XDPObject(), guardVars(StructureHash, nil, map[string]any{VarWildcards: uint8(15)}), func(s *ebpf.CollectionSpec) {
		for _, p := range s.Programs {
			p.Flags |= hasFrags
		}
	})
	r.six = true
	r.setRules(onlyClient)
	f := frame{six: true, extensions: []extension{options6(protoHopByHop, 3), auth(2)}}
	r.want(ProgXDP, f.bytes(), xdpPass, StatAccepted)
	f.dport = 9
	r.want(ProgXDP, f.bytes(), xdpDrop, StatDropped)
}
