// Package verdict says what a rendered filter does with a new connection: it reads the very
// files that the kernel's tools and maps are given - rules, sets, entries - by small
// interpreters that share no code with what renders them. It is pure.
package verdict

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"hookbed/driver/bundle"
)

// Flow is a new connection to the endpoint that a filter guards, or a datagram.
type Flow struct {
	From  netip.Addr
	Proto uint8
	Port  uint16 // destination
}

// Verdict is what becomes of a flow.
type Verdict struct {
	Allowed bool `json:"allowed"`
	// Where is the line or entry that decides, as "policy.rules:7" or "map policy, entry 3".
	Where string `json:"where"`
	// Text is that line or entry; "" where nothing matches.
	Text string `json:"text,omitempty"`
}

// Filter is a rendered filter.
type Filter interface{ Decide(Flow) Verdict }

// free is a filter of no policies.
type free struct{}

func (free) Decide(Flow) Verdict { return Verdict{Allowed: true, Where: "no rule"} }

// Read reads the files of a setup, and the variables of its BPF programs. An error names what
// an interpreter does not read.
func Read(files map[string]bundle.File, apply []bundle.Step) (Filter, error) {
	has := func(name string) bool { _, ok := files[name]; return ok }
	text := func(name string) string { return string(files[name].Data) }
	switch {
	case has("policy.nft"):
		return readNft("policy.nft", text("policy.nft"))
	case has("policy.rules"):
		return readIptables("policy.rules", text("policy.rules"), text("policy.ipset"))
	case has("policies.csv"):
		return readLines("policies.csv", text("policies.csv"))
	case has("bpfilter.chain"):
		return readBPFilter("bpfilter.chain", text("bpfilter.chain"))
	case has("filter_ipv4"), has("filter_ipv6"):
		return readSources(text("filter_ipv4") + text("filter_ipv6"))
	}
	vars := map[string]string{}
	for _, s := range apply {
		if load, ok := s.Do.(bundle.LoadBPF); ok && load.Vars["wildcards"] != "" {
			vars = load.Vars
		}
	}
	return readMaps(text, has, vars)
}

// readMaps reads the entries of hookbed's own maps.
func readMaps(text func(string) string, has func(string) bool, vars map[string]string) (Filter, error) {
	m := maps{tables: map[string]table{}}
	for _, name := range []string{"identities", "identities6", "policy", "policy6", "trie", "trie6", "list", "list6", "list_match", "list_match6", "allowed"} {
		if !has(name) {
			continue
		}
		t, err := readTable(name, text(name))
		if err != nil {
			return nil, err
		}
		m.tables[name] = t
	}
	if len(m.tables) == 0 {
		return free{}, nil
	}
	for name, into := range map[string]*[]byte{"wildcards": &m.wildcards, "l4_ports": &m.ports} {
		b, err := hex.DecodeString(vars[name])
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", name, err)
		}
		*into = b
	}
	if len(m.wildcards) != 1 {
		return nil, fmt.Errorf("variable wildcards has %d bytes, want 1", len(m.wildcards))
	}
	return m, nil
}

// rule is one line of a list of rules; zero fields match everything.
type rule struct {
	line     int
	text     string
	source   netip.Prefix
	proto    uint8
	from, to uint16
	set      string // name of a set that must have the flow
	never    bool   // it matches no new connection
	verdict  string // "accept", "drop", or "" which goes on
}

func (r rule) matches(f Flow, sets map[string][]element) (hit string, ok bool) {
	switch {
	case r.never,
		r.source.IsValid() && !r.source.Contains(f.From),
		r.proto != 0 && r.proto != f.Proto,
		r.from != 0 && (f.Port < r.from || f.Port > r.to):
		return "", false
	case r.set == "":
		return "", true
	}
	i := slices.IndexFunc(sets[r.set], func(e element) bool { return e.matches(f) })
	if i < 0 {
		return "", false
	}
	return sets[r.set][i].text, true
}

// element is one element of a set; a proto of 0 is any, as is a port of 0.
type element struct {
	text     string
	source   netip.Prefix
	proto    uint8
	from, to uint16
}

func (e element) matches(f Flow) bool {
	return e.source.Contains(f.From) && (e.proto == 0 || e.proto == f.Proto) && (e.from == 0 || e.from <= f.Port && f.Port <= e.to)
}

// list is a chain: the first rule that matches and has a verdict decides.
type list struct {
	file  string
	rules []rule
	sets  map[string][]element
	// otherwise is what becomes of a flow that no rule decides.
	otherwise bool
}

// Decide goes through the rules.
func (l list) Decide(f Flow) Verdict {
	for _, r := range l.rules {
		hit, ok := r.matches(f, l.sets)
		if !ok || r.verdict == "" {
			continue
		}
		text := r.text
		if hit != "" {
			text += ", element " + hit
		}
		return Verdict{Allowed: r.verdict == "accept", Where: fmt.Sprintf("%s:%d", l.file, r.line), Text: text}
	}
	return Verdict{Allowed: l.otherwise, Where: l.file + ": the end"}
}

// source reads an address or a prefix.
func source(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// numbers reads a port, or two with a separator between them.
func numbers(text, separator string) (from, to uint16, err error) {
	first, last, ranged := strings.Cut(text, separator)
	if _, err = fmt.Sscanf(first, "%d", &from); err != nil {
		return 0, 0, fmt.Errorf("port %q", text)
	}
	if to = from; ranged {
		if _, err = fmt.Sscanf(last, "%d", &to); err != nil {
			return 0, 0, fmt.Errorf("port %q", text)
		}
	}
	return from, to, nil
}

// protocol reads a name.
func protocol(text string) (uint8, error) {
	n, ok := map[string]uint8{"tcp": 6, "udp": 17, "any": 0, "ipv6-icmp": 58, "6": 6, "17": 17}[text]
	if !ok {
		return 0, fmt.Errorf("protocol %q", text)
	}
	return n, nil
}
