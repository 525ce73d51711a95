package ruleset

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
)

// LegacyTable is the kernel module of the table "filter" of iptables-legacy, ""
// where it is not ours to unload. A namespace in which the table was used once
// keeps it registered, empty, and pays for it with every packet; only the end of
// the namespace or of the module undoes that (xt_register_table in
// net/netfilter/x_tables.c).
type LegacyTable string

// LoadLegacyTable loads the module that a tool needs, apart from the rules, so
// that their load time is that of the rules. It is for a machine that hookbed has for
// itself, and does nothing where the module was there before.
func LoadLegacyTable(ctx context.Context, tool string) (LegacyTable, error) {
	module := map[string]string{"iptables-legacy": "iptable_filter", "ip6tables-legacy": "ip6table_filter"}[tool]
	if module == "" {
		return "", nil
	}
	if _, err := os.Stat("/sys/module/" + module); err == nil {
		return "", nil
	}
	if err := proc.Modprobe(ctx, module); err != nil {
		return "", fault.Unsupported("load module %s: %w", module, err)
	}
	return LegacyTable(module), nil
}

// Unload unregisters the table everywhere.
func (t LegacyTable) Unload() error {
	if t == "" {
		return nil
	}
	if err := unix.DeleteModule(string(t), unix.O_NONBLOCK); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unload module %s: %w", string(t), err)
	}
	return nil
}
