package imports

import (
	"fmt"
	"net/netip"
	"strings"

	"hookbed/driver/policy"
)

// Iptables reads the output of iptables-save or ip6tables-save: the rules of one chain of the
// table filter, "" for INPUT, in their order and with the chain's policy.
func Iptables(file string, data []byte, name string) (Result, error) {
	if len(data) > maxSize {
		return Result{}, fmt.Errorf("%w: %s: is %d bytes long, want at most %d", policy.ErrInvalid, file, len(data), maxSize)
	}
	if name == "" {
		name = "INPUT"
	}
	c := iptables{chain: chain{file: file}, name: name}
	number, filter := 0, false
	for line := range strings.Lines(string(data)) {
		number++
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "*"):
			filter = text == "*filter"
			c.filters = c.filters || filter
		case !filter:
		case strings.HasPrefix(text, ":"+name+" "):
			c.found, c.line = true, number
			c.accepts = strings.Contains(text, " ACCEPT")
		case strings.HasPrefix(text, "-A "+name+" "):
			c.found = true
			c.rule(number, words(text)[2:])
		}
	}
	if !c.filters || !c.found {
		return Result{}, fmt.Errorf("%w: %s: has no chain %s in a table *filter; give the output of iptables-save, or --chain", policy.ErrInvalid, file, name)
	}
	if c.accepts && !c.ended {
		v6 := c.six
		c.apply(rule{line: c.line, accept: true}, []netip.Prefix{everything(v6)})
	}
	return c.done(), nil
}

type iptables struct {
	chain
	name           string
	line           int // of the chain's policy
	filters, found bool
	accepts, ended bool // the chain's policy; a rule decided everything
	six            bool
	destination    string
}

// words splits a line at blanks, but not in quotes.
func words(text string) (out []string) {
	var b strings.Builder
	quoted := false
	for _, c := range text {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			if b.Len() > 0 {
				out = append(out, b.String())
			}
			b.Reset()
		default:
			b.WriteRune(c)
		}
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	return out
}

// rule reads one rule; what it cannot carry is left with its name.
func (c *iptables) rule(line int, w []string) {
	r, target, opening := rule{line: line}, "", true
	for i := 0; i < len(w); i++ {
		option := w[i]
		if option == "!" {
			c.left(line, "negates %s, which entries cannot carry; write what is admitted", strings.Join(w[i+1:min(i+2, len(w))], ""))
			return
		}
		if i++; i >= len(w) {
			c.left(line, "%s has no value", option)
			return
		}
		value, ok := w[i], true
		switch option {
		case "-s", "--source":
			var p netip.Prefix
			if p, ok = prefix(value); ok {
				r.sources = append(r.sources, p)
				c.six = c.six || p.Addr().Is6()
			}
		case "-d", "--destination":
			if ok = c.destination == "" || c.destination == value; c.destination == "" {
				c.note(line, "is about the destination %s, which entries take for the server", value)
			}
			c.destination = value
		case "-p", "--protocol":
			var p uint8
			if p, ok = proto(value); ok {
				r.protos = append(r.protos, p)
			}
		case "--dport", "--dports":
			for _, text := range strings.Split(value, ",") {
				at, good := ports(text, ":")
				r.ports, ok = append(r.ports, at), ok && good
			}
		case "--ctstate", "--state":
			opening = opens(value)
		case "-m", "--match":
			ok = value == "tcp" || value == "udp" || value == "sctp" || value == "multiport" || value == "comment" || value == "conntrack" || value == "state"
		case "--comment":
		case "-j", "--jump":
			target = value
			i += c.reject(target, w[i+1:])
		default:
			ok = false
		}
		if !ok {
			c.left(line, "has %s %s, which entries cannot carry; they have source, protocol and port of one destination", option, value)
			return
		}
	}
	c.decide(r, target, opening)
}

// reject is how many words are options of a target.
func (c *iptables) reject(target string, rest []string) int {
	if target == "REJECT" && len(rest) > 1 && rest[0] == "--reject-with" {
		return 2
	}
	return 0
}

func (c *iptables) decide(r rule, target string, opening bool) {
	switch {
	case !opening:
		c.note(r.line, "is about connections that are there already; every arm has a state of its own (state, enforce)")
		return
	case target == "REJECT":
		c.note(r.line, "rejects; filters here drop")
	case target != "ACCEPT" && target != "DROP" && target != "RETURN":
		c.left(r.line, "goes to %q, which entries cannot carry; write the rules of that chain into this one", target)
		return
	}
	if c.ended {
		return // no packet comes here
	}
	r.accept = target == "ACCEPT" || target == "RETURN" && c.accepts
	c.apply(r, []netip.Prefix{everything(c.six)})
	c.ended = r.sources == nil && r.protos == nil && r.ports == nil
}
