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

// IPKey is the key of MapEndpoints and MapIdentities, or of their like for IPv6,
// and the value of VarEndpointIP or VarEndpointIP6: the 4 or 16 bytes of an
// address as on the wire. It panics if there is none.
func IPKey(ip netip.Addr) []byte {
	if !ip.IsValid() {
		panic("bpf: key of no address")
	}
	return ip.Unmap().AsSlice()
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

// XDPPolicyKey is a key of the XDP object's MapPolicy, or of MapPolicy6 if src is
// an IPv6 address. The zero Addr, like 0.0.0.0, matches every source of IPv4, and
// :: every one of IPv6; port 0 with protocol 0 every port of every protocol.
func XDPPolicyKey(src netip.Addr, port uint16, proto uint8) []byte {
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	key := policyKey(IPKey(src), port, proto)
	if src.Unmap().Is6() {
		key = append(key, 0, 0, 0, 0) // an address is aligned to 8 bytes, and so is the key
	}
	return key
}

func policyKey(peer []byte, port uint16, proto uint8) []byte {
	key := binary.BigEndian.AppendUint16(peer, port)
	const ingress = 0
	return append(key, proto, ingress)
}

// PolicyValue is a value of MapPolicy in both objects, and of MapPolicy6. index is the
// policy's place in MapHits and MapHitsShared.
func PolicyValue(deny bool, index uint32) []byte {
	value := make([]byte, 8)
	if deny {
		value[0] = 1
	}
	binary.LittleEndian.PutUint32(value[4:], index)
	return value
}

// TunnelLine is an entry of MapTunnels as text: a prefix of IPv4, and the address
// of the node that has it.
func TunnelLine(prefix netip.Prefix, node netip.Addr) string {
	key := append(binary.LittleEndian.AppendUint32(nil, uint32(prefix.Bits())), IPKey(prefix.Masked().Addr())...)
	return fmt.Sprintf("%x %x", key, binary.LittleEndian.AppendUint32(nil, binary.BigEndian.Uint32(IPKey(node))))
}

// EndpointLine is an entry of MapEndpoints, or of MapEndpoints6, as text: key and value
// in hex, with a space between and "{ifindex:LINK}" where the code that fills the map puts the
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
