package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const requestPort = 5001

// segment is a TCP segment with so many bytes of options.
func segment(port uint16, options int, payload string) []byte {
	b := slices.Repeat([]byte{0}, 20+options)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = byte(len(b)/4)<<4, tcpACK
	return append(b, payload...)
}

func loadRequests(t *testing.T, enforce uint8, policies ...string) *rig {
	t.Helper()
	r := load(t, RequestObject(), map[string]any{VarRequestPort: uint16(requestPort), VarRequestEnforce: enforce})
	for _, p := range policies {
		line, err := RequestLine(p)
		if err != nil {
			t.Fatal(err)
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		r.put(MapRequests, unhex(t, key), unhex(t, value))
	}
	return r
}

// TestRequestVerdicts: what a segment begins with decides, whatever its headers are.
func TestRequestVerdicts(t *testing.T) {
	r := loadRequests(t, 1, "GET /public/", "POST /public/ab/")
	for payload, admitted := range map[string]bool{
		"GET /public/x HTTP/1.1\r\n":                         true,
		"GET /public/":                                       true,
		"POST /public/ab/c HTTP/1.1":                         true,
		"GET /public/" + strings.Repeat("x", 1000):           true,
		"GET /public/x HTTP/1.1\r\n\r\nGET /secret HTTP/1.1": true, // the second is not judged
		"GET /secret HTTP/1.1\r\n":                           false,
		"POST /public/x HTTP/1.1\r\n":                        false,
		"PATCH /public/x HTTP/1.1\r\n":                       false,
		" GET /public/x HTTP/1.1\r\n":                        false,
		"get /public/x HTTP/1.1\r\n":                         false,
		"GET /publi":                                         false,
		"G":                                                  false,
		"\x00":                                               false,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                   false,
	} {
		for _, options := range []int{0, 12, 40} {
			for _, six := range []bool{false, true} {
				for _, tags := range [][]uint16{nil, {etherVLAN}} {
					want, stat := uint32(actShot), StatDropped
					if admitted {
						want, stat = actOK, StatAccepted
					}
					f := frame{src: client, dst: server, six: six, tags: tags, l4: segment(requestPort, options, payload)}.bytes()
					t.Run(fmt.Sprintf("%.20q/%d/%v/%d", payload, options, six, len(tags)), func(t *testing.T) {
						out := r.with(t).want(ProgRequestTC, f, want, stat)
						checkUntouched(t, f, out.frame)
					})
				}
			}
		}
	}
}

// TestRequestPasses: what has no payload, or is of another port or protocol, is not judged;
// what pads a short frame is no payload.
func TestRequestPasses(t *testing.T) {
	r := loadRequests(t, 1, "GET /public/")
	whole := frame{src: client, dst: server, l4: segment(requestPort, 0, "")}.bytes()
	for name, f := range map[string][]byte{
		"no payload":       whole,
		"SYN with options": frame{src: client, dst: server, l4: segment(requestPort, 40, "")}.bytes(),
		"IPv6, no payload": frame{src: client, dst: server, six: true, l4: segment(requestPort, 12, "")}.bytes(),
		"padding":          append(bytes.Clone(whole), make([]byte, 6)...),
		"another port":     frame{src: client, dst: server, l4: segment(80, 0, "GET /secret")}.bytes(),
		"UDP to the port":  frame{src: client, dst: server, proto: protoUDP, dport: requestPort}.bytes(),
		"a later fragment": frame{src: client, dst: server, frag: 100, dport: requestPort}.bytes(),
	} {
		t.Run(name, func(t *testing.T) { r.with(t).want(ProgRequestTC, f, actOK, StatPassed) })
	}
}

// TestRequestWithoutPolicies: everything is admitted, and counted.
func TestRequestWithoutPolicies(t *testing.T) {
	r := loadRequests(t, 0)
	r.want(ProgRequestTC, frame{src: client, dst: server, l4: segment(requestPort, 0, "GET /secret")}.bytes(), actOK, StatAccepted)
}

func TestRequestLineRefuses(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("x", RequestBytes+1)} {
		if line, err := RequestLine(text); err == nil {
			t.Errorf("%d bytes: %q", len(text), line)
		}
	}
}
