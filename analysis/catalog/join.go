package catalog

import (
	"maps"
	"slices"
)

// join is a list with the entries of another list that it lacks. Each is inserted
// after the entry that precedes it in the other list, so that the driver's order is
// kept. both merges two entries of one name; nil takes the first.
func join[T any](list, more []T, name func(T) string, both func(a, b T) T) []T {
	out := slices.Clone(list)
	at := 0
	for _, m := range more {
		i := slices.IndexFunc(out, func(o T) bool { return name(o) == name(m) })
		if i < 0 {
			out = slices.Insert(out, at, m)
			at++
			continue
		}
		if both != nil {
			out[i] = both(out[i], m)
		}
		at = i + 1
	}
	return out
}

// addDefaults is filter a with the defaults that only b, the same filter in
// another plan, has.
func addDefaults(a, b Filter) Filter {
	if len(b.Defaults) == 0 {
		return a
	}
	defaults := maps.Clone(b.Defaults)
	maps.Copy(defaults, a.Defaults)
	a.Defaults = defaults
	return a
}
