package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
)

// endpointEnforce is the flag of an endpoint that has policies.
const endpointEnforce = 1

// IPKey is the key of MapEndpoints and MapIdentities, and the value of
// VarEndpointIP: the 4 bytes of an IPv4 address as on the wire. It panics if
// the address is not IPv4.
func IPKey(ip netip.Addr) []byte {
	b := ip.Unmap().As4()
	return b[:]
}

// IdentityValue is a value of MapIdentities.
func IdentityValue(identity uint32) []byte {
	return binary.LittleEndian.AppendUint32(nil, identity)
}

// PolicyKey is a key of the tc object's MapPolicy. IdentityAny matches every
// source; port 0 with protocol 0 every port of every protocol.
func PolicyKey(identity uint32, port uint16, proto uint8) []byte {
	return policyKey(binary.LittleEndian.AppendUint32(nil, identity), port, proto)
}

// XDPPolicyKey is a key of the XDP object's MapPolicy. The zero Addr, like
// 0.0.0.0, matches every source; port 0 with protocol 0 every port of every
// protocol. It panics if src is an IPv6 address.
func XDPPolicyKey(src netip.Addr, port uint16, proto uint8) []byte {
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	return policyKey(IPKey(src), port, proto)
}

func policyKey(peer []byte, port uint16, proto uint8) []byte {
	key := binary.BigEndian.AppendUint16(peer, port)
	const ingress = 0
	return append(key, proto, ingress)
}

// PolicyValue is a value of MapPolicy in both objects. index is the policy's place
// in MapHits and MapHitsShared.
func PolicyValue(deny bool, index uint32) []byte {
	value := make([]byte, 8)
	if deny {
		value[0] = 1
	}
	binary.LittleEndian.PutUint32(value[4:], index)
	return value
}

// EndpointLine is an entry of MapEndpoints as text: key and value in hex, with
// a space between and "{ifindex:LINK}" where whoever fills the map puts the
// 4 little-endian bytes of that link's index. link is the node's end of the
// endpoint's veth, mac the address of the endpoint's end, gwMAC that of the
// node's. Either address may also be written "{mac:LINK}", to be put in
// likewise; any text that is no 6-byte address is left as it is.
func EndpointLine(ip netip.Addr, link string, id uint32, mac, gwMAC string, enforce bool) string {
	flags := 0
	if enforce {
		flags = endpointEnforce
	}
	return fmt.Sprintf("%x {ifindex:%s}%x%s%s%02x000000",
		IPKey(ip), link, binary.LittleEndian.AppendUint32(nil, id), macHex(mac), macHex(gwMAC), flags)
}

func macHex(s string) string {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return s
	}
	return hex.EncodeToString(mac)
}
