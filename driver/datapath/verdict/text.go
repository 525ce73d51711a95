package verdict

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// readIptables reads the input of iptables-restore, and of ipset restore. Jumps are to the
// one chain that the file fills.
func readIptables(file, text, sets string) (Filter, error) {
	l := list{file: file, otherwise: true, sets: map[string][]element{}}
	if err := readIpset(sets, l.sets); err != nil {
		return nil, err
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" || words[1] == "FORWARD" {
			continue
		}
		r := rule{line: number, text: strings.TrimSpace(line)}
		if err := r.iptables(words[2:]); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, number, err)
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

// iptables reads the options of a rule.
func (r *rule) iptables(words []string) (err error) {
	for i := 0; i+1 < len(words) && err == nil; i += 2 {
		value := words[i+1]
		switch words[i] {
		case "-s":
			r.source, err = source(value)
		case "-p":
			r.proto, err = protocol(value)
		case "--dport":
			r.from, r.to, err = numbers(value, ":")
		case "--match-set":
			r.set = value
			i++ // its dimensions
		case "--ctstate":
			r.never = r.never || value != "NEW"
		case "-j":
			r.verdict = map[string]string{"ACCEPT": "accept", "DROP": "drop", "RETURN": ""}[value]
		case "-m", "-d", "--icmpv6-type":
		default:
			err = fmt.Errorf("option %q", words[i])
		}
	}
	return err
}

func readIpset(text string, into map[string][]element) error {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "add" {
			continue
		}
		address, rest, ported := strings.Cut(words[2], ",")
		e := element{text: words[2]}
		var err error
		if e.source, err = source(address); err == nil && ported {
			proto, port, _ := strings.Cut(rest, ":")
			if e.proto, err = protocol(proto); err == nil {
				e.from, e.to, err = numbers(port, "-")
			}
		}
		if err != nil {
			return fmt.Errorf("policy.ipset: %q: %w", words[2], err)
		}
		into[words[1]] = append(into[words[1]], e)
	}
	return nil
}

// nftBlock is the head of a chain, set or map.
var nftBlock = regexp.MustCompile(`^\t(chain|set|map) (\S+) \{$`)

// readNft reads a table of nft. Rules are those of the chain that has a hook.
func readNft(file, text string) (Filter, error) {
	n := nft{list: list{file: file, otherwise: true, sets: map[string][]element{}}, chains: map[string][]rule{}}
	number, block, name := 0, "", ""
	for line := range strings.Lines(text) {
		number++
		trimmed := strings.TrimSpace(line)
		head := nftBlock.FindStringSubmatch(strings.TrimRight(line, "\n"))
		var err error
		switch {
		case head != nil:
			block, name = head[1], head[2]
		case block == "chain" && strings.HasPrefix(trimmed, "type filter hook"):
			n.hooked = name
		case block == "chain" && trimmed != "}":
			err = n.rule(name, number, trimmed)
		case (block == "set" || block == "map") && strings.HasSuffix(trimmed, ","):
			err = n.element(name, strings.TrimSuffix(trimmed, ","))
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, number, err)
		}
	}
	n.rules = append(n.rules, n.chains[n.hooked]...)
	return n.list, nil
}

type nft struct {
	list
	chains map[string][]rule
	hooked string
}

func (n *nft) rule(chain string, number int, text string) (err error) {
	r := rule{line: number, text: text}
	words := strings.Fields(text)
	for i := 0; i < len(words) && err == nil; i++ {
		next := func() string { // the word behind this one
			if i++; i < len(words) {
				return words[i]
			}
			return ""
		}
		switch w := words[i]; {
		case w == "saddr":
			if i+1 < len(words) && (words[i+1] == "." || strings.HasPrefix(words[i+1], "@") || words[i+1] == "vmap") {
				continue // a key that is looked up
			}
			r.source, err = source(next())
		case w == "daddr":
			next()
		case w == "dport":
			if i+1 < len(words) && (strings.HasPrefix(words[i+1], "@") || words[i+1] == "vmap") {
				continue
			}
			r.from, r.to, err = numbers(next(), "-")
		case w == "tcp", w == "udp":
			r.proto, err = protocol(w)
		case w == "l4proto":
			r.proto, err = protocol(next())
		case w == "state":
			r.never = r.never || next() != "new"
		case w == "icmpv6":
			r.proto = 58
			i = slices.Index(words, "}")
		case strings.HasPrefix(w, "@"):
			r.set = w[1:]
			if i > 0 && words[i-1] == "vmap" { // every element goes to one chain, whose first rule has the verdict
				r.verdict = n.chainVerdict()
			}
		case w == "accept", w == "drop":
			r.verdict = w
		case slices.Contains([]string{"ip", "ip6", "meta", "ct", "counter", ".", "vmap"}, w):
		default:
			err = fmt.Errorf("word %q", w)
		}
	}
	n.chains[chain] = append(n.chains[chain], r)
	return err
}

// chainVerdict is the verdict of the chain that a verdict map goes to.
func (n *nft) chainVerdict() string {
	for name, rules := range n.chains {
		if (name == "admitted" || name == "denied") && len(rules) > 0 {
			return rules[0].verdict
		}
	}
	return ""
}

func (n *nft) element(set, text string) (err error) {
	e := element{text: text}
	key, _, _ := strings.Cut(text, " : ")
	address, port, ported := strings.Cut(key, " . ")
	if e.source, err = source(address); err == nil && ported {
		e.from, e.to, err = numbers(port, "-")
	}
	n.sets[set] = append(n.sets[set], e)
	return err
}

// readLines reads the lines that a custom filter's scripts get.
func readLines(file, text string) (Filter, error) {
	l := list{file: file}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if i == 0 {
			continue // the header
		}
		f := strings.Split(line, ",")
		if len(f) != 4 {
			return nil, fmt.Errorf("%s:%d: %d fields", file, i+1, len(f))
		}
		r := rule{line: i + 1, text: line, verdict: map[string]string{"allow": "accept", "deny": "drop"}[f[3]]}
		var err error
		if r.source, err = source(f[0]); err == nil {
			r.from, r.to, err = numbers(f[1], "-")
		}
		if err == nil {
			r.proto, err = protocol(f[2])
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

// readBPFilter reads a chain of bpfilter.
func readBPFilter(file, text string) (Filter, error) {
	l := list{file: file, sets: map[string][]element{}}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) > 3 && words[0] == "chain":
			l.otherwise = words[len(words)-1] == "ACCEPT"
			continue
		case len(words) == 0 || words[0] != "rule":
			return nil, fmt.Errorf("%s:%d: %q", file, i+1, line)
		}
		r := rule{line: i + 1, text: line, verdict: map[string]string{"ACCEPT": "accept", "DROP": "drop"}[words[len(words)-1]]}
		if err := r.bpfilter(line, words[1:len(words)-2], l.sets); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

func (r *rule) bpfilter(line string, words []string, sets map[string][]element) (err error) {
	if key, rest, ok := strings.Cut(line, " in { "); ok {
		r.set = fmt.Sprint(r.line)
		list, _, _ := strings.Cut(rest, " }")
		var proto uint8
		if strings.Contains(key, "tcp.dport") {
			proto = 6
		}
		for _, text := range strings.Split(list, "; ") {
			e := element{text: text, proto: proto}
			address, port, ported := strings.Cut(text, ", ")
			if e.source, err = source(address); err == nil && ported {
				e.from, e.to, err = numbers(port, "-")
			}
			if err != nil {
				return err
			}
			sets[r.set] = append(sets[r.set], e)
		}
		return nil
	}
	for i := 0; i+2 < len(words) && err == nil; i += 3 {
		value := words[i+2]
		switch words[i] {
		case "ip4.saddr", "ip6.saddr", "ip4.snet", "ip6.snet":
			r.source, err = source(value)
		case "tcp.dport", "udp.dport":
			r.proto, _ = protocol(words[i][:3])
			r.from, r.to, err = numbers(value, "-")
		case "meta.l3_proto", "icmpv6.type":
			r.never = true // neither TCP nor UDP
		default:
			err = fmt.Errorf("matcher %q", words[i])
		}
	}
	return err
}

// readSources reads the entries of xdp-filter's map, which are addresses.
func readSources(text string) (Filter, error) {
	l := list{file: "xdp-filter's map"}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		key, flags, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(key)
		a, ok := netip.AddrFromSlice(b)
		if err != nil || !ok {
			return nil, fmt.Errorf("xdp-filter's map: %q", line)
		}
		l.rules = append(l.rules, rule{line: i + 1, text: line, source: netip.PrefixFrom(a, a.BitLen()), verdict: "accept", never: !strings.HasPrefix(flags, "01")})
	}
	return l, nil
}
