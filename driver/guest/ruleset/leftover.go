package ruleset

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hookbed/driver/guest/proc"
)

// Leftovers are the base chains that iptables-nft had in the table "filter" of
// a namespace before a load. What it makes of them it leaves behind empty, and
// an empty base chain costs every packet: the undo removes it. For the table of
// iptables-legacy see LegacyTable.
type Leftovers struct {
	family string // nft's name of it, "" for nothing to look after
	chains map[string]bool
	table  bool
}

// NoteLeftovers lists what is there, for tools that leave something behind. The note
// says why what a tool leaves will stay, "" if it will not.
func NoteLeftovers(ctx context.Context, tool string) (before Leftovers, note string, err error) {
	family := map[string]string{"iptables-nft": "ip", "ip6tables-nft": "ip6"}[tool]
	if family == "" {
		return Leftovers{}, "", nil
	}
	if _, err := proc.LookIn("", ToolNft); err != nil {
		return Leftovers{}, fmt.Sprintf("empty chains of %s stay: %v", tool, err), nil
	}
	before, err = listLeftovers(ctx, family)
	return before, "", err
}

// listLeftovers lists the table "filter" of a family.
func listLeftovers(ctx context.Context, family string) (Leftovers, error) {
	tables, err := listNft(ctx, "tables", family)
	if err != nil {
		return Leftovers{}, err
	}
	chains, err := listNft(ctx, "chains", family)
	if err != nil {
		return Leftovers{}, err
	}
	x := Leftovers{family: family, chains: map[string]bool{}}
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

// Clear deletes the chains that are there now and were not before, if they are
// empty, and the table if it is.
func (l Leftovers) Clear(ctx context.Context) error {
	if l.family == "" {
		return nil
	}
	now, err := listLeftovers(ctx, l.family)
	if err != nil {
		return err
	}
	var script strings.Builder
	kept := 0
	var errs []error
	for chain := range now.chains {
		empty, err := chainIsEmpty(ctx, l.family, chain)
		errs = append(errs, err)
		if l.chains[chain] || !empty {
			kept++
			continue
		}
		fmt.Fprintf(&script, "delete chain %s filter %s\n", l.family, chain)
	}
	if kept == 0 && !l.table {
		fmt.Fprintf(&script, "delete table %s filter\n", l.family)
	}
	if err := errors.Join(errs...); err != nil || script.Len() == 0 {
		return err
	}
	return Restore(ctx, nil, []string{ToolNft, "-f", "-"}, []byte(script.String()))
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
