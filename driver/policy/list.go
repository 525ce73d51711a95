package policy

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// listHeader is the first line of a file of lines. It is that of the file which the
// scripts of a custom filter get (docs/external.md).
const listHeader = "source,port,protocol,action"

// isList says whether a file is one of lines: its first line that is no comment is the header.
func isList(data []byte) bool {
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text != "" && !strings.HasPrefix(text, "#") {
			return text == listHeader
		}
	}
	return false
}

// lines reads lines "source,port,protocol,action", each a policy about every endpoint.
func (r *reader) lines(data []byte) {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") || text == listHeader {
			continue
		}
		if r.read++; r.read > maxDocuments {
			r.problem(number, "is policy %d, want at most %d; write several files", r.read, maxDocuments)
			return
		}
		p, what := parseLine(text)
		if what != "" {
			r.problem(number, "%s", what)
			continue
		}
		at := Position{r.file, number}
		rule := Rule{At: at, Peers: []Peer{{Block: &Block{Prefix: p.Source, At: at}}}}
		if p.Proto != ProtoAny {
			rule.Ports = []Ports{{Proto: p.Proto, From: p.From, To: p.To}}
		}
		out := Policy{Name: fmt.Sprintf("line %d", number), At: at}
		out.Isolates[Ingress] = true
		out.Rules[Ingress] = []Rule{rule}
		r.set.Policies = append(r.set.Policies, out)
	}
}

// parseLine reads one line, or says what is wrong with it.
func parseLine(text string) (e Entry, what string) {
	fields := strings.Split(text, ",")
	if len(fields) != 4 {
		return e, fmt.Sprintf("has %d fields, want source,port,protocol,action as in 198.19.1.1/32,80,tcp,allow", len(fields))
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	if a, err := netip.ParseAddr(fields[0]); err == nil && !a.Is4In6() && a.Zone() == "" {
		fields[0] = netip.PrefixFrom(a, a.BitLen()).String()
	}
	if e.Source, what = parsePrefix(fields[0]); what != "" {
		return e, what
	}
	var ok bool
	if e.Proto, ok = protoOf(fields[2]); !ok {
		return e, fmt.Sprintf("protocol %q, want tcp, udp, sctp or any", cut(fields[2]))
	}
	if e.From, e.To, ok = parseRange(fields[1]); !ok {
		return e, fmt.Sprintf("port %q, want 1 to %d, a range as in 8000-8010, or 0 for every port", cut(fields[1]), LastPort)
	}
	switch {
	case e.Proto == ProtoAny && e.From != 0:
		return e, fmt.Sprintf("names port %s of any protocol; write a line for tcp and one for udp", fields[1])
	case fields[3] == "deny":
		return e, "denies, and policies admit: what none admits is denied; write what is admitted"
	case fields[3] != "allow":
		return e, fmt.Sprintf("action %q, want allow", cut(fields[3]))
	}
	return e, ""
}

// parseRange reads "0", "80" or "8000-8010".
func parseRange(text string) (from, to uint16, ok bool) {
	first, last, ranged := strings.Cut(text, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	if !ranged {
		return uint16(a), uint16(a), true
	}
	b, err := strconv.ParseUint(last, 10, 16)
	return uint16(a), uint16(b), err == nil && a > 0 && a <= b
}

// Line is the entry as a line of a file of policies.
func (e Entry) Line() string {
	port := strconv.Itoa(int(e.From))
	if e.To != e.From {
		port += "-" + strconv.Itoa(int(e.To))
	}
	return fmt.Sprintf("%s,%s,%s,allow", e.Source, port, ProtoName(e.Proto))
}

// WriteList is entries as a file of policies, which Read reads; a comment before the
// entries of each rule says where they are from.
func WriteList(entries []Entry) []byte {
	var b bytes.Buffer
	b.WriteString(listHeader + "\n")
	last := Position{}
	for _, e := range entries {
		if e.At != last && e.At.File != "" {
			fmt.Fprintf(&b, "# %s\n", e.At)
		}
		last = e.At
		b.WriteString(e.Line() + "\n")
	}
	return b.Bytes()
}
