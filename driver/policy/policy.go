// Package policy is the model of the network policies that users write: it reads
// Kubernetes' NetworkPolicy, a part of CiliumNetworkPolicy, Cilium's rules of 2017 and
// lists of sources, maps labels to the addresses of an inventory, and says for a pair of
// endpoints whether they may connect and which rule decides. It also turns the rules of
// one endpoint into entries that filters can hold. It is pure.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Numbers of protocols that policies can name (IANA's registry). ProtoAny is every one.
const (
	ProtoAny  uint8 = 0
	ProtoTCP  uint8 = 6
	ProtoUDP  uint8 = 17
	ProtoSCTP uint8 = 132
)

// LastPort is the largest port.
const LastPort = 65535

// Direction is of a connection, seen from the endpoint that a policy selects.
type Direction int

// Directions.
const (
	Ingress Direction = iota
	Egress
	directions
)

// String is the word of policies for the direction.
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Position is a place in a file. Line counts from 1; 0 is the file as a whole.
type Position struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// String is "FILE:LINE", as compilers write it.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Set is the policies of one or more files, in their order.
type Set struct{ Policies []Policy }

// Join is the policies of several sets, in their order.
func Join(sets ...*Set) *Set {
	out := &Set{}
	for _, s := range sets {
		out.Policies = append(out.Policies, s.Policies...)
	}
	return out
}

// Policy is one policy: whom it selects, and what it admits. An endpoint that some
// policy isolates in a direction is denied what no rule admits.
type Policy struct {
	Name string // kind, namespace and name, as messages show it
	At   Position
	// Subject selects the endpoints that it is about.
	Subject Selector
	// Isolates and Rules are by Direction.
	Isolates [directions]bool
	Rules    [directions][]Rule
}

// Rule admits connections: from some peers, to some ports.
type Rule struct {
	At    Position
	Peers []Peer // nil: every one
	Ports []Ports
	// HTTP restricts the requests of the connections; nil admits every request. The
	// filters of layers 3 and 4 cannot hold it.
	HTTP []HTTP
}

// Peer is the other end of a connection: pods, or addresses.
type Peer struct {
	Pods  *Selector
	Block *Block
}

// Block is a prefix without some of the prefixes in it.
type Block struct {
	Prefix netip.Prefix
	Except []netip.Prefix
	// NotPods: addresses of pods are not meant, as with Cilium, whose CIDR rules are about
	// what is outside of the cluster.
	NotPods bool
	At      Position
}

// Ports is a protocol and a range of its ports, the whole range if From is 0. Name, if
// not "", is the name of a port of the destination.
type Ports struct {
	Proto    uint8
	From, To uint16
	Name     string
}

// HTTP is what a request must be; "" is any. Path is a regular expression of Cilium's
// form, or as written in the rules of 2017.
type HTTP struct {
	Method  string   `json:"method,omitempty"`
	Path    string   `json:"path,omitempty"`
	Host    string   `json:"host,omitempty"`
	Headers []string `json:"headers,omitempty"`
}

// ErrInvalid is wrapped by every error that means that a file of policies or an inventory
// is wrong.
var ErrInvalid = errors.New("invalid policies")

// Problem is one thing that is wrong with a file.
type Problem struct {
	At   Position
	What string // what is wrong, and what would be right
}

// String is one line.
func (p Problem) String() string { return p.At.String() + ": " + p.What }

// InvalidError is everything wrong with one file, in the order of its lines. It wraps
// ErrInvalid.
type InvalidError struct{ Problems []Problem }

// shownProblems is how many problems an error lists.
const shownProblems = 20

// Error has one line for each problem, of many the first ones.
func (e *InvalidError) Error() string {
	var lines []string
	for i, p := range e.Problems {
		if i == shownProblems {
			lines = append(lines, fmt.Sprintf("%s: and %d more", p.At.File, len(e.Problems)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func (e *InvalidError) Unwrap() error { return ErrInvalid }

// invalid is the error of problems, nil if there are none.
func invalid(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return a.At.Line - b.At.Line })
	return &InvalidError{Problems: problems}
}

// ProtoName is what files call a protocol: "tcp", "udp", "sctp" or "any"; a number for
// others.
func ProtoName(proto uint8) string {
	switch proto {
	case ProtoAny:
		return "any"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoSCTP:
		return "sctp"
	}
	return fmt.Sprint(proto)
}

// protoOf is the number of a protocol's name in any case.
func protoOf(name string) (proto uint8, ok bool) {
	for _, p := range []uint8{ProtoAny, ProtoTCP, ProtoUDP, ProtoSCTP} {
		if strings.EqualFold(name, ProtoName(p)) {
			return p, true
		}
	}
	return 0, false
}

// covers says whether a port is one of the range.
func (p Ports) covers(proto uint8, port uint16) bool {
	if p.Proto != ProtoAny && p.Proto != proto {
		return false
	}
	return p.From == 0 || p.From <= port && port <= p.To
}

// String is as in "tcp 80", "udp 8000-8010", "tcp" (every port) or "any".
func (p Ports) String() string {
	switch {
	case p.Name != "":
		return ProtoName(p.Proto) + " " + p.Name
	case p.From == 0:
		return ProtoName(p.Proto)
	case p.From == p.To:
		return fmt.Sprintf("%s %d", ProtoName(p.Proto), p.From)
	}
	return fmt.Sprintf("%s %d-%d", ProtoName(p.Proto), p.From, p.To)
}
