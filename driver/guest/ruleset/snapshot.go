package ruleset

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Snapshot is what nftables has in a namespace, what iptables-nft made included. A program that
// changes the firewall and leaves its changes behind is undone by it.
type Snapshot struct {
	tables map[nftTable]bool
	chains map[nftChain]bool
	rules  map[nftHandle]bool
}

type nftTable struct{ family, name string }

type nftChain struct {
	nftTable
	chain string
}

type nftHandle struct {
	nftChain
	handle uint64
}

// Note lists what is in the thread's namespace.
func Note(ctx context.Context) (Snapshot, error) {
	objects, err := listNft(ctx, "ruleset")
	if err != nil {
		return Snapshot{}, fmt.Errorf("note the rule sets: %w", err)
	}
	return snapshotOf(objects), nil
}

func snapshotOf(objects []nftObject) Snapshot {
	s := Snapshot{map[nftTable]bool{}, map[nftChain]bool{}, map[nftHandle]bool{}}
	for _, o := range objects {
		switch {
		case o.Table != nil:
			s.tables[nftTable{o.Table.Family, o.Table.Name}] = true
		case o.Chain != nil:
			s.chains[nftChain{nftTable{o.Chain.Family, o.Chain.Table}, o.Chain.Name}] = true
		case o.Rule != nil:
			s.rules[nftHandle{nftChain{nftTable{o.Rule.Family, o.Rule.Table}, o.Rule.Chain}, o.Rule.Handle}] = true
		}
	}
	return s
}

// Clear deletes the tables, chains and rules of the thread's namespace that were not there when s was
// noted. What was there then, and is not now, it does not bring back.
func (s Snapshot) Clear(ctx context.Context) error {
	now, err := Note(ctx)
	if err != nil {
		return err
	}
	if script := s.without(now); script != "" {
		return Restore(ctx, nil, []string{ToolNft, "-f", "-"}, []byte(script))
	}
	return nil
}

// without is the script that makes s of a later snapshot. New chains are emptied first, because
// they may lead to each other, and rules that lead to them are deleted before they are.
func (s Snapshot) without(now Snapshot) string {
	var flush, rules, chains, tables []string
	for t := range now.tables {
		if !s.tables[t] {
			tables = append(tables, fmt.Sprintf("delete table %s %s\n", t.family, t.name))
		}
	}
	for c := range now.chains {
		if s.tables[c.nftTable] && !s.chains[c] {
			flush = append(flush, "flush chain "+c.String()+"\n")
			chains = append(chains, "delete chain "+c.String()+"\n")
		}
	}
	for r := range now.rules {
		if s.chains[r.nftChain] && !s.rules[r] {
			rules = append(rules, fmt.Sprintf("delete rule %s handle %d\n", r.nftChain, r.handle))
		}
	}
	var out strings.Builder
	for _, lines := range [][]string{flush, rules, chains, tables} {
		slices.SortFunc(lines, cmp.Compare[string])
		out.WriteString(strings.Join(lines, ""))
	}
	return out.String()
}

func (c nftChain) String() string { return c.family + " " + c.name + " " + c.chain }
