package bpf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

//go:generate go run ./compile request

// Programs of RequestObject.
const (
	// ProgRequestTC is for tc ingress of the server's link.
	ProgRequestTC = "request_tc"
	// ProgRequestAccepted is for the server's cgroup (sockops), and puts the sockets that it
	// accepts into MapSockets.
	ProgRequestAccepted = "request_accepted"
	// ProgRequestReceive is for MapSockets (sk_skb, stream verdict).
	ProgRequestReceive = "request_receive"
)

// Maps and variables of RequestObject; MapStats is in it, too.
const (
	// MapRequests holds the policies, by what requests must begin with.
	MapRequests = "requests"
	MapSockets  = "sockets"
	// VarRequestPort (2 bytes, little endian) is the port that policies are about.
	VarRequestPort = "request_port"
	// VarRequestEnforce (1 byte) is whether there are policies.
	VarRequestEnforce = "enforce"
)

// RequestBytes is how many bytes of a request are judged.
const RequestBytes = 64

// RequestObject returns the ELF object of the policies of requests.
func RequestObject() []byte { return bytes.Clone(_RequestBytes) }

// RequestLine is a policy as an entry of MapRequests: the text that a request begins with,
// 1 to RequestBytes bytes.
func RequestLine(text string) (string, error) {
	if len(text) == 0 || len(text) > RequestBytes {
		return "", fmt.Errorf("a request's beginning has %d bytes, want 1 to %d", len(text), RequestBytes)
	}
	key := make([]byte, 4+RequestBytes)
	binary.LittleEndian.PutUint32(key, uint32(8*len(text)))
	copy(key[4:], text)
	return hex.EncodeToString(key) + " 01\n", nil
}
