package trace

import (
	"slices"
	"strings"
	"testing"
)

// Each name is in the table once, and "*" is at the end of a name only.
func TestLayerTable(t *testing.T) {
	seen := map[string]Layer{}
	for _, line := range layerTable() {
		if !slices.Contains(Layers(), line.layer) {
			t.Errorf("%q is not among Layers", line.layer)
		}
		for _, name := range strings.Fields(line.names) {
			if other, ok := seen[name]; ok {
				t.Errorf("%s is in %q and in %q", name, other, line.layer)
			}
			seen[name] = line.layer
			if i := strings.Index(name, "*"); i >= 0 && i != len(name)-1 {
				t.Errorf("%s: * is for the end of a name", name)
			}
		}
	}
}
