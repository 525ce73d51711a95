package bpf

import "bytes"

//go:generate go run ./compile message

// Programs of MessageObject, which has the maps and variables of RequestObject.
const (
	// ProgMessageConnected is for the client's cgroup (sockops), and puts the sockets with
	// which it connects into MapSockets.
	ProgMessageConnected = "message_connected"
	// ProgMessageSent is for MapSockets (sk_msg).
	ProgMessageSent = "message_sent"
)

// MessageObject returns the ELF object of the policies of requests at the client.
func MessageObject() []byte { return bytes.Clone(_MessageBytes) }
