package bpf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

//go:generate go run ./compile request

// ProgRequestTC is the program of RequestObject. It is for tc ingress of the server's link.
const ProgRequestTC = "request_tc"

// Maps and variables of RequestObject; MapStats is in it, too.
const (
	// MapRequests holds the policies, by what requests must begin with.
	MapRequests = "requests"
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
