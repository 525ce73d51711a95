package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// xtChains are the base chains that iptables-nft had in the table "filter" of
// a namespace before a load. What it makes of them it leaves behind empty, and
// an empty base chain costs every packet: the undo removes it. The table of
// iptables-legacy stays registered whatever one does.
type xtChains struct {
	family string // nft's name of it, "" for nothing to look after
	chains map[string]bool
	table  bool
}

// noteXTChains lists what is there, for tools that leave something behind.
func (c *call) noteXTChains(tool string) (xtChains, error) {
	family := map[string]string{"iptables-nft": "ip", "ip6tables-nft": "ip6"}[tool]
	if family == "" {
		return xtChains{}, nil
	}
	if _, err := lookIn("", toolNft); err != nil {
		c.note("empty chains of %s stay: %v", tool, err)
		return xtChains{}, nil
	}
	return listXTChains(c.ctx, family)
}

// listXTChains lists the table "filter" of a family.
func listXTChains(ctx context.Context, family string) (xtChains, error) {
	tables, err := listNft(ctx, "tables", family)
	if err != nil {
		return xtChains{}, err
	}
	chains, err := listNft(ctx, "chains", family)
	if err != nil {
		return xtChains{}, err
	}
	x := xtChains{family: family, chains: map[string]bool{}}
	for _, o := range append(tables, chains...) {
		if o.Chain != nil && o.Chain.Table == "filter" {
			x.chains[o.Chain.Name] = true
		}
		if o.Table != nil && o.Table.Name == "filter" {
			x.table = true
		}
	}
	return x, nil
}

// clear deletes the chains that are there now and were not before, if they are
// empty, and the table if it is.
func (x xtChains) clear(ctx context.Context) error {
	if x.family == "" {
		return nil
	}
	now, err := listXTChains(ctx, x.family)
	if err != nil {
		return err
	}
	var script strings.Builder
	kept := 0
	var errs []error
	for chain := range now.chains {
		empty, err := chainIsEmpty(ctx, x.family, chain)
		errs = append(errs, err)
		if x.chains[chain] || !empty {
			kept++
			continue
		}
		fmt.Fprintf(&script, "delete chain %s filter %s\n", x.family, chain)
	}
	if kept == 0 && !x.table {
		fmt.Fprintf(&script, "delete table %s filter\n", x.family)
	}
	if err := errors.Join(errs...); err != nil || script.Len() == 0 {
		return err
	}
	return restore(ctx, nil, []string{toolNft, "-f", "-"}, []byte(script.String()))
}

func chainIsEmpty(ctx context.Context, family, chain string) (bool, error) {
	objects, err := listNft(ctx, "chain", family, "filter", chain)
	for _, o := range objects {
		if o.Rule != nil {
			return false, err
		}
	}
	return true, err
}
