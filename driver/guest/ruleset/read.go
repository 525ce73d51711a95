package ruleset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"hookbed/driver/bundle"
)

// counters are values by key.
type counters map[string]uint64

// newCounters has every value that a rule set always has.
func newCounters() counters {
	return counters{"rules": 0, "rules_hook": 0, "packets": 0, "bytes": 0, "dropped": 0, "accepted": 0, "passed": 0}
}

// Read reads a rule set's counters in the thread's namespace. See bundle.RuleCounter
// for the values.
func Read(ctx context.Context, r bundle.RuleCounter) (map[string]uint64, error) {
	var got counters
	var err error
	switch {
	case isIPTables(r.Tool):
		got, err = readIPTables(ctx, r)
	case r.Tool == ToolNft:
		got, err = readNft(ctx, r)
	default:
		return nil, fmt.Errorf("unknown rule-set tool %q", r.Tool)
	}
	if err != nil {
		return nil, err
	}
	for _, set := range r.Sets {
		if got["elements."+set], err = readIPSet(ctx, set, "Number of entries"); err != nil {
			return nil, err
		}
	}
	return got, nil
}

func readIPTables(ctx context.Context, r bundle.RuleCounter) (counters, error) {
	out, err := runTool(ctx, []string{r.Tool + "-save", "-c", "-t", r.Table}, nil)
	if err != nil {
		return nil, err
	}
	return parseRules(string(out), r.Chain)
}

func readNft(ctx context.Context, r bundle.RuleCounter) (counters, error) {
	objects, err := listNft(ctx, append([]string{"table"}, strings.Fields(r.Table)...)...)
	if err != nil {
		return nil, err
	}
	return countNft(objects, r.Chain)
}

// readIPSet reads a number from what the kernel reports of a set.
func readIPSet(ctx context.Context, set, key string) (uint64, error) {
	out, err := runTool(ctx, []string{ToolIPSet, "list", "-terse", set}, nil)
	if err != nil {
		return 0, err
	}
	return parseIPSet(string(out), key)
}

// SetSize is the memory that the elements of an ipset take, in bytes.
type SetSize struct {
	Name  string
	Bytes uint64
}

// createdSet is a line of a file for ipset that makes a set.
var createdSet = regexp.MustCompile(`(?m)^create (\S+) `)

// SetSizes are the sizes of the sets that a file for ipset made, in its order.
func SetSizes(ctx context.Context, file []byte) ([]SetSize, error) {
	var out []SetSize
	for _, m := range createdSet.FindAllSubmatch(file, -1) {
		n, err := readIPSet(ctx, string(m[1]), "Size in memory")
		if err != nil {
			return out, err
		}
		out = append(out, SetSize{string(m[1]), n})
	}
	return out, nil
}

// parseIPSet reads a number from the header that ipset lists of a set.
func parseIPSet(text, key string) (uint64, error) {
	for _, line := range strings.Split(text, "\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok || name != key {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse %q of an ipset: %w", key, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("an ipset's header has no %q", key)
}

// nftObject is one object of the JSON that nft lists (libnftables-json(5));
// exactly one field is set.
type nftObject struct {
	Table *struct{ Family, Name string }
	Chain *struct{ Family, Name, Table string }
	Rule  *nftRule
	Set   *nftSet
	Map   *nftSet
}

type nftSet struct {
	Name string
	Elem []json.RawMessage
}

type nftRule struct {
	Family, Table, Chain string

	Handle  uint64
	Comment string
	Expr    []map[string]json.RawMessage
}

// listNft lists objects of the thread's namespace.
func listNft(ctx context.Context, what ...string) ([]nftObject, error) {
	out, err := runTool(ctx, append([]string{ToolNft, "-j", "list"}, what...), nil)
	if err != nil {
		return nil, err
	}
	return parseNftObjects(out)
}

// parseNftObjects reads what "nft -j list" prints.
func parseNftObjects(data []byte) ([]nftObject, error) {
	var list struct{ Nftables []nftObject }
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("parse nft's list: %w", err)
	}
	return list.Nftables, nil
}

// countNft counts in the objects of one table. See bundle.RuleCounter for the
// values.
func countNft(objects []nftObject, chain string) (counters, error) {
	got := newCounters()
	found := false
	for _, o := range objects {
		found = found || o.Chain != nil && o.Chain.Name == chain
		for _, set := range []*nftSet{o.Set, o.Map} {
			if set != nil {
				got["elements."+set.Name] = uint64(len(set.Elem))
			}
		}
		if o.Rule == nil {
			continue
		}
		got["rules_hook"]++
		if o.Rule.Chain == chain {
			got["rules"]++
		}
		if err := got.addNftRule(*o.Rule); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, fmt.Errorf("no chain %q in the table", chain)
	}
	return got, nil
}

// addNftRule adds a rule's own counter under its verdict.
func (k counters) addNftRule(r nftRule) error {
	verdict := "passed"
	for _, e := range r.Expr {
		if _, ok := e["accept"]; ok {
			verdict = "accepted"
		}
		if _, ok := e["drop"]; ok {
			verdict = "dropped"
		}
	}
	for _, e := range r.Expr {
		text, ok := e["counter"]
		if !ok {
			continue
		}
		var n struct{ Packets, Bytes uint64 }
		if err := json.Unmarshal(text, &n); err != nil {
			return fmt.Errorf("parse counter %s: %w", text, err)
		}
		k["packets"] += n.Packets
		k["bytes"] += n.Bytes
		k[verdict] += n.Packets
	}
	return nil
}

// savedRule is a rule line of iptables-save -c: counters, chain, the rest.
var savedRule = regexp.MustCompile(`^\[(\d+):(\d+)\] -A (\S+)(.*)$`)

// savedChain is a chain line: name, policy, counters.
var savedChain = regexp.MustCompile(`^:(\S+) (\S+) \[(\d+):(\d+)\]$`)

// savedTarget is the target in the rest of a rule line.
var savedTarget = regexp.MustCompile(` -[jg] (\S+)`)

// parseRules reads the output of iptables-save -c for one table. See
// bundle.Counter for the values. A chain that is not there is an error, but a
// table that is not holds no rules: its built-in chains are simply not
// registered yet, which counts as zero of everything.
func parseRules(text, chain string) (counters, error) {
	got := newCounters()
	found, any := false, false
	for _, line := range strings.Split(text, "\n") {
		if m := savedChain.FindStringSubmatch(line); m != nil {
			any = true
			if m[1] == chain {
				found = true
				if err := got.addPolicy(m[2], m[3], m[4]); err != nil {
					return nil, err
				}
			}
		}
		m := savedRule.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		got["rules_hook"]++
		if m[3] != chain {
			continue
		}
		got["rules"]++
		target := savedTarget.FindStringSubmatch(m[4])
		name := ""
		if target != nil {
			name = target[1]
		}
		if err := got.add(m[1], m[2], target == nil, name); err != nil {
			return nil, err
		}
	}
	if any && !found {
		return nil, fmt.Errorf("no chain %q in the table", chain)
	}
	return got, nil
}

// addPolicy counts what met no rule of the chain. A chain of the user's has no
// policy, and its counters say nothing.
func (k counters) addPolicy(policy, packets, bytes string) error {
	target := ""
	if policy == "ACCEPT" {
		target = "RETURN"
	}
	return k.add(packets, bytes, policy == "-", target)
}

// add counts a rule or a policy, unless it has no verdict.
func (k counters) add(packets, bytes string, silent bool, target string) error {
	p, err := strconv.ParseUint(packets, 10, 64)
	b, err2 := strconv.ParseUint(bytes, 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("parse counters [%s:%s]: %w", packets, bytes, err)
	}
	if silent {
		return nil
	}
	k["packets"] += p
	k["bytes"] += b
	switch target {
	case "DROP", "REJECT":
		k["dropped"] += p
	case "ACCEPT":
		k["accepted"] += p
	case "RETURN":
		k["passed"] += p
	}
	return nil
}
