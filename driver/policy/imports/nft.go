package imports

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"hookbed/driver/policy"
)

// nftChain is the beginning of a chain or a set in a listing, nftTable that of a table.
var (
	nftTable = regexp.MustCompile(`^(?:create |add )?table (\S+) (\S+) \{$`)
	nftBlock = regexp.MustCompile(`^(chain|set|map) (\S+) \{$`)
)

// Nft reads the output of `nft list ruleset`: the rules of one chain, "" for the first with
// a hook of input, in their order and with the chain's policy. A name may be "CHAIN" or
// "FAMILY TABLE CHAIN".
func Nft(file string, data []byte, name string) (Result, error) {
	if len(data) > maxSize {
		return Result{}, fmt.Errorf("%w: %s: is %d bytes long, want at most %d", policy.ErrInvalid, file, len(data), maxSize)
	}
	n := &nft{chain: chain{file: file}, sets: map[string][]string{}}
	n.scan(string(data))
	found := slices.IndexFunc(n.chains, func(c nftLines) bool {
		if name == "" {
			return c.hook == "input"
		}
		return name == c.name || name == c.table+" "+c.name
	})
	if found < 0 {
		return Result{}, fmt.Errorf("%w: %s: has no chain %q; give the output of `nft list ruleset`, or --chain", policy.ErrInvalid, file, name)
	}
	c := n.chains[found]
	n.families = []netip.Prefix{everything(false)}
	switch family, _, _ := strings.Cut(c.table, " "); family {
	case "ip6":
		n.families = []netip.Prefix{everything(true)}
	case "inet":
		n.families = append(n.families, everything(true))
	}
	for _, l := range c.rules {
		if !n.ended {
			n.rule(c.table, l)
		}
	}
	if c.accepts && !n.ended {
		n.apply(rule{line: c.line, accept: true}, n.families)
	}
	return n.done(), nil
}

type nft struct {
	chain
	chains   []nftLines
	sets     map[string][]string // elements by "TABLE SET"
	families []netip.Prefix
	to       string
	ended    bool
}

// nftLines is a chain as it is listed.
type nftLines struct {
	table, name, hook string
	line              int
	accepts           bool
	rules             []nftLine
}

type nftLine struct {
	number int
	text   string
}

// scan finds chains and the elements of sets.
func (n *nft) scan(text string) {
	table, block, name, number := "", "", "", 0
	elements := false
	for line := range strings.Lines(text) {
		number++
		l := strings.TrimSpace(line)
		if m := nftTable.FindStringSubmatch(l); m != nil {
			table, block = m[1]+" "+m[2], ""
			continue
		}
		if m := nftBlock.FindStringSubmatch(l); m != nil {
			if block, name = m[1], m[2]; block == "chain" {
				n.chains = append(n.chains, nftLines{table: table, name: name, line: number, accepts: true})
			}
			continue
		}
		switch {
		case l == "}" && !elements:
			block = ""
		case block == "chain" && l != "":
			n.chainLine(number, l)
		case block == "set" || block == "map":
			rest, begins := strings.CutPrefix(l, "elements = {")
			if begins {
				elements, l = true, rest
			}
			if elements {
				body, ends := strings.CutSuffix(strings.TrimSpace(l), "}")
				for _, e := range strings.Split(body, ",") {
					if e = strings.TrimSpace(e); e != "" {
						n.sets[table+" "+name] = append(n.sets[table+" "+name], e)
					}
				}
				elements = !ends
			}
		}
	}
}

func (n *nft) chainLine(number int, l string) {
	c := &n.chains[len(n.chains)-1]
	if rest, is := strings.CutPrefix(l, "type filter hook "); is {
		c.hook, _, _ = strings.Cut(rest, " ")
		c.accepts = !strings.Contains(l, "policy drop")
		return
	}
	c.rules = append(c.rules, nftLine{number, l})
}

// rule reads one rule, word by word.
func (n *nft) rule(table string, l nftLine) {
	text, _, _ := strings.Cut(l.text, " comment \"")
	s := &statement{words: strings.Fields(strings.NewReplacer("{", " { ", "}", " } ", ",", " , ").Replace(text)), rule: rule{line: l.number}, opening: true}
	for s.at = 0; s.at < len(s.words); {
		if what := n.word(table, s); what != "" {
			n.left(l.number, "has %s, which entries cannot carry; they have source, protocol and port of one destination", what)
			return
		}
	}
	switch {
	case s.verdict == "":
		n.note(l.number, "has no verdict")
	case !s.opening:
		n.note(l.number, "is about connections that are there already; every arm has a state of its own (state, enforce)")
	default:
		if s.verdict == "reject" {
			n.note(l.number, "rejects; filters here drop")
		}
		s.accept = s.verdict == "accept"
		n.apply(s.rule, n.families)
		n.ended = s.sources == nil && s.protos == nil && s.ports == nil && s.pairs == nil
	}
}

// statement is a rule that is being read.
type statement struct {
	rule
	words   []string
	at      int
	opening bool
	verdict string
}

func (s *statement) next() string {
	if s.at >= len(s.words) {
		return ""
	}
	s.at++
	return s.words[s.at-1]
}

// values are those behind a match: one, a list in braces, or a set's elements. The states of
// connections are a list without braces.
func (s *statement) values(sets map[string][]string, table string) (out []string) {
	first := s.next()
	switch {
	case first == "{":
		for w := s.next(); w != "}" && w != ""; w = s.next() {
			if w != "," {
				out = append(out, w)
			}
		}
		return out
	case strings.HasPrefix(first, "@"):
		return sets[table+" "+first[1:]]
	}
	out = []string{first}
	for s.at < len(s.words) && s.words[s.at] == "," {
		s.at++
		out = append(out, s.next())
	}
	return out
}

// word reads the next match or statement, or says what it cannot carry.
func (n *nft) word(table string, s *statement) string {
	w := s.next()
	switch w {
	case "ip", "ip6":
		return n.address(table, s, w)
	case "tcp", "udp", "sctp":
		if key := s.next(); key != "dport" {
			return w + " " + key
		}
		number, _ := proto(w)
		s.protos = []uint8{number}
		return n.portValues(table, s)
	case "meta":
		if key := s.next(); key != "l4proto" {
			return "meta " + key
		}
		return n.protoValues(table, s)
	case "ct":
		if key := s.next(); key != "state" {
			return "ct " + key
		}
		s.opening = opens(strings.Join(s.values(n.sets, table), ","))
	case "counter":
		for s.at+1 < len(s.words) && (s.words[s.at] == "packets" || s.words[s.at] == "bytes") {
			s.at += 2
		}
	case "accept", "drop":
		s.verdict = w
	case "reject":
		s.verdict, s.at = w, len(s.words)
	default:
		return fmt.Sprintf("%q", w)
	}
	return ""
}

// address reads what is behind "ip" or "ip6".
func (n *nft) address(table string, s *statement, family string) string {
	switch key := s.next(); key {
	case "protocol", "nexthdr":
		return n.protoValues(table, s)
	case "daddr":
		v := s.values(n.sets, table)
		if len(v) != 1 || n.to != "" && n.to != v[0] {
			return family + " daddr of several destinations"
		}
		if n.to == "" {
			n.note(s.line, "is about the destination %s, which entries take for the server", v[0])
		}
		n.to = v[0]
	case "saddr":
		if s.at < len(s.words) && s.words[s.at] == "." {
			return n.pairs(table, s)
		}
		s.sources = []netip.Prefix{}
		for _, v := range s.values(n.sets, table) {
			p, ok := prefix(v)
			if !ok {
				return family + " saddr " + v
			}
			s.sources = append(s.sources, p)
		}
	default:
		return family + " " + key
	}
	return ""
}

// pairs reads "ip saddr . tcp dport @SET".
func (n *nft) pairs(table string, s *statement) string {
	s.next()
	number, ok := proto(s.next())
	if !ok || s.next() != "dport" || s.at >= len(s.words) || !strings.HasPrefix(s.words[s.at], "@") {
		return "a set of other keys than source and port"
	}
	s.rule.pairs = []box{}
	for _, e := range s.values(n.sets, table) {
		address, port, _ := strings.Cut(e, " . ")
		p, ok := prefix(address)
		at, good := ports(port, "-")
		if !ok || !good {
			return "the element " + e
		}
		s.rule.pairs = append(s.rule.pairs, box{p, number, at[0], at[1]})
	}
	return ""
}

func (n *nft) portValues(table string, s *statement) string {
	s.ports = [][2]uint16{}
	for _, v := range s.values(n.sets, table) {
		at, ok := ports(v, "-")
		if !ok {
			return "the port " + v
		}
		s.ports = append(s.ports, at)
	}
	return ""
}

func (n *nft) protoValues(table string, s *statement) string {
	s.protos = []uint8{}
	for _, v := range s.values(n.sets, table) {
		p, ok := proto(v)
		if !ok {
			return "the protocol " + v
		}
		s.protos = append(s.protos, p)
	}
	return ""
}
